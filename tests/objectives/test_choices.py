"""Multiple choice: every choice as if it were scored alone."""

import json

import jax
import numpy as np
import optax
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.data.packing import pack_separate
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.inference.predict import evaluate_run, predict_run
from jaxprompt.prompts import Prompt
from jaxprompt.scoring.evaluate import evaluate, make_eval_step
from tests.conftest import STORIES

ROWS = [
    {"text": "a dog", "choices": ["ran.", "was a very big red ball", "sat"], "label": 1},
    {"text": "the girl", "choices": ["sat", "played all day"], "label": "B"},
    {"text": "it", "choices": {"text": ["x", "yes", "no", "maybe so"], "label": ["1", "2", "3", "4"]}, "label": "4"},
    {"text": "he", "choices": ["sat", "ran"], "label": "sat"},
]
RIGHT = [1, 1, 3, 0]


def tree(run_dir, rows=ROWS, **objective):
    return {
        "model": STORIES,
        "template": "{soft:3}{text} {target}",
        "method": {"init": {"top_k": 100}},
        "objective": {"type": "choices", **objective},
        "data": {"train": rows, "validation": rows},
        "train": {"steps": 3, "batch_size": 4, "eval_every": 3},
        "run_dir": str(run_dir),
    }


@pytest.mark.parametrize(
    ("score", "share"),
    [
        ("sum", True),
        ("mean", True),
        ("pmi", True),
        ("pmi", False),
        pytest.param("sum", False, marks=pytest.mark.slow),
    ],
)
def test_each_choice_scores_as_if_it_were_alone(stories, tmp_path, score, share):
    given = tree(tmp_path / "run", score=score)
    experiment = build(load_config(given | {"data": given["data"] | {"share_prefix": share}}), stories)
    data = TrainingData.load(experiment)
    assert bool(data.hoisted) == share
    trainable = experiment.init_trainable()
    conditioning = experiment.method.apply(trainable)
    step = make_eval_step(experiment.forward(data.hoisted))
    found = evaluate(
        lambda batch: step(conditioning, {}, batch), data.validation.batches(), lambda batch: batch, len(ROWS)
    )
    assert found.answers["label"].tolist() == RIGHT
    alone = jax.tree.map(np.asarray, conditioning)
    tokens = experiment.encoder.tokens

    def logprob(ids, target):
        logits = np.asarray(stories.logits(np.array([[*ids, *target]]), prompt=Prompt(alone, {}, {})))[0]
        logprobs = np.asarray(jax.nn.log_softmax(logits))
        return sum(logprobs[len(ids) - 1 + at, token] for at, token in enumerate(target))

    for number, row in enumerate(ROWS):
        texts = row["choices"]["text"] if isinstance(row["choices"], dict) else row["choices"]
        for place, text in enumerate(texts):
            target = experiment.encoder.target_ids(text)
            want = logprob([*tokens.leading, *tokens.encode(row["text"])], target)
            if score == "mean":
                want /= len(target)
            if score == "pmi":
                want -= logprob(tokens.leading, target)
            assert found.outputs["logits"][number, place] == pytest.approx(want, abs=1e-4)
        assert (found.outputs["logits"][number, len(texts) :] < -1e8).all()
    assert not found.not_finite


def test_the_labels_share_is_smoothed_over_the_choices_that_a_row_has(stories, tmp_path):
    losses = {}
    for smoothing in (0.0, 0.3):
        experiment = build(load_config(tree(tmp_path / "run", label_smoothing=smoothing)), stories)
        step = make_eval_step(experiment.forward(()))
        batch = pack_separate(experiment.encode(ROWS), num_words=experiment.objective.num_words)
        scores = step(experiment.method.apply(experiment.init_trainable()), {}, batch)
        losses[smoothing] = float(scores.loss)
        logits = np.asarray(scores.outputs["logits"])[:, 0]
    want = 0.0
    for row, right in zip(logits, RIGHT, strict=True):
        own = row[row > -1e8]
        target = optax.smooth_labels(jax.nn.one_hot(right, len(own)), 0.3)
        want += float(optax.softmax_cross_entropy(own, target))
    assert losses[0.3] == pytest.approx(want, rel=1e-5)
    assert losses[0.3] != pytest.approx(losses[0.0], rel=1e-2)


def test_a_run_learns_scores_and_answers_with_texts(stories, tmp_path, quiet):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    result = jaxprompt.train(tree(tmp_path / "run", rows=str(path)), backbone=stories, reporter=quiet)
    assert {"accuracy", "loss"} <= result.metrics.keys() and "majority_accuracy" not in result.metrics
    answers = predict_run(tmp_path / "run", [{k: v for k, v in row.items() if k != "label"} for row in ROWS], stories)
    for row, answer in zip(ROWS, answers, strict=True):
        assert answer["prediction"] in (row["choices"]["text"] if isinstance(row["choices"], dict) else row["choices"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines] == RIGHT
    assert [line["prediction"] for line in lines] == [answer["prediction"] for answer in answers]
    assert evaluate_run(tmp_path / "run", backbone=stories)["accuracy"] == result.metrics["accuracy"]


def test_columns_of_their_own(stories, tmp_path):
    rows = [{"text": "a", "one": "x", "two": "y z", "label": label} for label in (0, "B", "x", 1.0)]
    experiment = build(load_config(tree(tmp_path / "run", rows, choices=["one", "two"])), stories)
    assert [experiment.objective.answer(row, 1)["label"] for row in rows] == [0, 1, 0, 1]
    assert experiment.objective.num_words == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 7}, "row 1: 'label' is 7, which is none of 3 choices"),
        ({"label": "Z"}, "row 1: 'label' is 'Z', which is none of 3 choices"),
        ({"label": None}, "row 1: 'label' is None"),
        ({"label": -1}, "row 1: 'label' is -1"),
        ({"choices": ["a"]}, "row 1: 1 choices: there are 2 to 5"),
        ({"choices": list("abcdef")}, "row 1: 6 choices: there are 2 to 5 (correct the row, or raise objective.most)"),
        ({"choices": "a or b"}, "row 1: 'choices' is 'a or b': give a list of choices"),
        ({"choices": ["a", None]}, "row 1: a choice is None"),
        ({"choices": ["", "b"]}, "row 1"),
    ],
)
def test_a_row_that_offers_no_choice_is_refused_by_its_number(stories, tmp_path, change, message):
    experiment = build(load_config(tree(tmp_path / "run")), stories)
    with pytest.raises(InputError) as error:
        experiment.encode([{**ROWS[0], **change}])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_masked_model_cannot_choose_so(minilm, tmp_path):
    with pytest.raises(InputError, match="choices needs a causal model"):
        build(load_config(tree(tmp_path / "run")), minilm)
