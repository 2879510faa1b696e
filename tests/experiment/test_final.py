"""Figures of what a run writes, and the files that it leaves."""

import json

import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.experiment.writing import Inputs, write_for
from jaxprompt.inference.predict import evaluate_run
from jaxprompt.types import Conditioning
from tests.conftest import STORIES

ROWS = [
    {"text": "a dog", "target": "It ran."},
    {"text": "the little girl who had a red ball", "target": ["She played.", "She was happy."]},
    {"text": "a dog", "target": "It barked."},
]


def tree(run_dir, **sections):
    base = {
        "model": STORIES,
        "template": "{soft:3}{text} {target}",
        "method": {"init": {"top_k": 100}},
        "data": {"train": ROWS, "validation": ROWS},
        "train": {"steps": 4, "batch_size": 3, "eval_every": 2},
        "evaluation": {"metrics": ["chrf", "rouge1", "exact_match"], "max_new_tokens": 8},
        "run_dir": str(run_dir),
    }
    for name, values in sections.items():
        base[name] = {**base[name], **values} if isinstance(base[name], dict) else values
    return base


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_one_input_are_references_of_one_another(stories, tmp_path):
    experiment = build(load_config(tree(tmp_path / "run")), stories)
    inputs = Inputs.of(experiment, ROWS)
    assert inputs.numbers == [1, 2]
    assert inputs.references == [["It ran.", "It barked."], ["She played.", "She was happy."]]


def test_what_is_written_for_all_is_what_generate_writes_for_each(stories, tmp_path, quiet):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = tree(tmp_path / "run", data={"train": str(path), "validation": str(path)})
    result = jaxprompt.train(config, backbone=stories, reporter=quiet)
    found = lines(result.run_dir / "predictions.jsonl")
    for line in found:
        row = ROWS[line["row"] - 1]
        (text,) = jaxprompt.generate(stories, [{"text": row["text"]}], result.prompt, max_new_tokens=8)
        assert line["prediction"] == text.strip()
    assert result.metrics["inputs"] == 2
    want = [max(float(line["prediction"] == r) for r in line["references"]) for line in found]
    assert result.metrics["exact_match"] == sum(want) / 2
    # Again from the prompt's file, and a finished run that is asked for once more is as it was.
    again = evaluate_run(result.run_dir, backbone=stories)
    assert {name: again[name] for name in ("chrf", "rouge1", "loss")} == pytest.approx(
        {name: result.metrics[name] for name in ("chrf", "rouge1", "loss")}
    )
    assert jaxprompt.train(config, backbone=stories, reporter=quiet).metrics == result.metrics


def test_a_figure_of_what_is_written_may_choose_the_prompt(stories, tmp_path, quiet):
    config = tree(tmp_path / "run", train={"metric": "chrf"}, evaluation={"examples": 1})
    result = jaxprompt.train(config, backbone=stories, reporter=quiet)
    records = [r["validation"] for r in lines(result.run_dir / "metrics.jsonl") if "validation" in r]
    assert len(records) == 3 and all("chrf" in record for record in records)
    assert max(record["chrf"] for record in records) == records[result.metrics["best_step"] // 2]["chrf"]
    # Of all inputs at the end, of one while training.
    assert result.metrics["inputs"] == 2


def test_intervals_hold_their_figures(stories, tmp_path, quiet):
    config = tree(tmp_path / "run", train={"steps": 0}, method={"name": "soft"}, evaluation={"confidence": 0.9})
    found = jaxprompt.train(config, backbone=stories, reporter=quiet).metrics
    assert {"loss", "chrf", "rouge1"} <= found["confidence"].keys()
    for name, (low, high) in found["confidence"].items():
        assert (low <= found[name] + 1e-9 and found[name] <= high + 1e-9) or name == "chrf"


def test_labels_leave_a_line_for_each_example_and_a_table(stories, rows, tmp_path, quiet):
    config = tree(
        tmp_path / "run",
        data={"train": rows, "validation": rows},
        evaluation={"metrics": ["f1", "ece"]},
        train={"steps": 1},
    )
    config["objective"] = {"type": "verbalizer", "labels": ["bad", "good"]}
    result = jaxprompt.train(config, backbone=stories, reporter=quiet)
    found = lines(result.run_dir / "predictions.jsonl")
    assert [line["row"] for line in found] == list(range(1, len(rows) + 1))
    assert sum(line["right"] for line in found) / len(found) == result.metrics["accuracy"]
    table = result.metrics["confusion"]
    assert table["labels"] == ["bad", "good"] and sum(map(sum, table["rows"])) == len(rows)
    assert sum(table["rows"][at][at] for at in range(2)) == sum(line["right"] for line in found)


def test_a_number_is_written_as_t5_writes_it(stories, tmp_path):
    rows = [{"text": "a", "score": score} for score in (3.75, 0, "4.9", 5.0, 2.5)]
    config = tree(tmp_path / "run", data={"train": rows, "validation": rows, "target": "score"})
    config["objective"] = {"type": "generation", "number": 0.2}
    experiment = build(load_config(config), stories)
    written = [experiment.objective.answer(row, 1)["target"] for row in rows]
    # Halves go to the even multiple, as tf.round has it: 2.5 is 12.5 steps.
    assert written == ["3.8", "0.0", "4.8", "5.0", "2.4"]
    with pytest.raises(InputError, match="row 7: 'score' is 'high': give a finite number"):
        experiment.objective.answer({"text": "a", "score": "high"}, 7)


def test_an_input_that_leaves_no_room_is_refused(stories, tmp_path):
    config = tree(tmp_path / "run", evaluation={"max_new_tokens": 512})
    experiment = build(load_config(config), stories)
    with pytest.raises(InputError, match="do not fit the backbone's 512 positions"):
        write_for(experiment, Conditioning(), Inputs.of(experiment, ROWS))
