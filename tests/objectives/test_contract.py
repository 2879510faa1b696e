"""What every objective of the table must do: a new one is tested by being listed."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.inference.predict import load_run, predict
from jaxprompt.inference.score import score
from jaxprompt.objectives import OBJECTIVES
from jaxprompt.scoring.forward import Forward
from tests.conftest import STORIES

# Where it can score: a decoder always, and an encoder unless it needs one that writes.
PLACES = [
    (name, backbone)
    for name, objective in OBJECTIVES.items()
    for backbone in ("stories", "masked")
    if backbone == "stories" or objective.needs != ("target",)
]


@pytest.fixture
def rows(rows):
    """With what one objective asks of them, and no other looks at."""
    return [{**row, "choices": ["so bad", "good"]} for row in rows]


def config(name, rows, backbone="stories", **sections):
    needs = "target" if backbone == "stories" else "mask"
    ending = f" It was {{{needs}}}" if needs in OBJECTIVES[name].needs else ""
    return {
        "model": STORIES,
        "template": f"{{soft:3}}Review: {{text}}{ending}",
        "method": {"init": {"top_k": 50}},
        # Words of several tokens; texts that differ where they are embedded.
        "objective": {"type": name} | ({"labels": {"0": "so bad", "1": "good"}} if has_labels(name) else {}),
        # 12 rows make a last batch with empty slots.
        "data": {"train": rows, "validation": rows},
        "optimizer": {"learning_rate": 0.01},
        "train": {"steps": 4, "batch_size": 5, "eval_every": 2, "log_every": 1, "metric": "loss"},
        **sections,
    }


def has_labels(name):
    return "labels" in OBJECTIVES[name].Options.model_fields


def moved(experiment):
    """What is learned, away from its start: a head starts at 0, under which everything scores alike."""
    keys = iter(jax.random.split(jax.random.key(1), 9))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), experiment.init_trainable())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_name_chooses_its_options(rows, name):
    tree = config(name, rows)
    chosen = load_config(tree).objective
    assert type(chosen) is OBJECTIVES[name].Options and chosen.type == name
    with pytest.raises(jaxprompt.InputError, match=r"'objective\.colour'|'colour' in objective"):
        load_config({**tree, "objective": {"type": name, "colour": 1}})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_figures_have_names_of_their_own_and_the_first_and_the_loss_a_direction(name):
    direction = {metric.name: metric.higher_is_better for metric in OBJECTIVES[name].metrics}
    assert len(direction) == len(OBJECTIVES[name].metrics)
    assert next(iter(direction.values())) is not None
    # Lower, since equal evaluations are told apart by it.
    assert direction["loss"] is False


@pytest.mark.parametrize(("name", "backbone"), PLACES)
def test_what_it_puts_out_is_by_example_and_its_loss_is_the_figure(request, rows, name, backbone):
    """Every array is `[rows, slots, ...]`, and empty slots count nowhere."""
    experiment = build(load_config(config(name, rows, backbone)), request.getfixturevalue(backbone))
    trainable, data = moved(experiment), TrainingData.load(experiment)
    forward = experiment.forward(data.hoisted)
    frozen, step = forward.frozen(), jax.jit(Forward.__call__, static_argnums=0)
    totals, empty = np.zeros(2), 0
    for batch in data.validation.batches():
        scores = step(forward, experiment.method.apply(trainable), trainable.get("head", {}), frozen, batch)
        assert scores.loss.shape == scores.count.shape == ()
        assert scores.outputs
        for value in (*scores.outputs.values(), *batch.answers.values()):
            assert value.shape[:2] == batch.index.shape
        totals += float(scores.loss), float(scores.count)
        empty += int((batch.index < 0).sum())
    assert empty > 0
    prompt = experiment.prompt(trainable)
    together = score(experiment, prompt, experiment.encode(rows))
    found = together.metrics(experiment.objective.metrics)
    assert found["loss"] == pytest.approx(totals[0] / totals[1], rel=1e-5)
    assert found["examples"] == len(rows)

    # The scores of an example are its own: what else is in its row, and who computed the prefix, changes nothing.
    tree = config(name, rows, backbone, data={"train": rows, "packing": False, "share_prefix": False})
    alone = score(build(load_config(tree), experiment.backbone), prompt, experiment.encode(rows))
    assert alone.outputs.keys() == together.outputs.keys()
    for key, value in alone.outputs.items():
        np.testing.assert_allclose(together.outputs[key], value, rtol=1e-4, atol=1e-4)
    assert max(np.ptp(value, axis=0).max() for value in alone.outputs.values()) > 1e-3

    # And so are its answers, which need no row to be labelled.
    if not experiment.objective.writes:
        texts = [{"text": row["text"], "choices": row["choices"]} for row in rows]
        presented = experiment.objective.present(together.outputs)
        want = [experiment.objective.shown(row, a)["prediction"] for row, a in zip(texts, presented, strict=True)]
        assert [a["prediction"] for a in predict(experiment, prompt, texts)] == want


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("spoilt", ["gone", None, [None]])
def test_a_row_that_cannot_be_measured_is_refused_by_its_number(stories, rows, name, spoilt):
    experiment = build(load_config(config(name, rows)), stories)
    column = experiment.objective.column
    broken = {**rows[1], column: spoilt}
    if spoilt == "gone":
        del broken[column]
    for part in ("train", "validation"):
        data = {"train": rows, "validation": rows, part: [rows[0], broken]}
        tree = config(name, rows, data=data)
        with pytest.raises(jaxprompt.InputError, match=f"^data.{part}: row 2.*{column}") as error:
            TrainingData.load(build(load_config(tree), stories))
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_resumed_is_uninterrupted_and_its_file_scores_as_what_was_learned(stories, rows, tmp_path, quiet, name):
    tree = config(name, rows, run_dir=str(tmp_path / "run"))
    tree["train"]["batch_size"] = len(rows)
    whole = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    experiment, prompt = load_run(whole.run_dir, stories)
    learned = experiment.objective.init(stories.hidden_size).get("head", {})
    assert {key: x.shape for key, x in prompt.head.items()} == {key: x.shape for key, x in learned.items()}
    assert all(np.ptp(x) > 0 for x in prompt.head.values() if x.size > 1)
    again = jaxprompt.load_prompt(jaxprompt.save_prompt(prompt, tmp_path / "p.safetensors"))
    assert again.info == prompt.info and again.info["objective"]["type"] == name
    jax.tree.map(np.testing.assert_array_equal, (again.conditioning, again.head), (prompt.conditioning, prompt.head))
    figures = score(experiment, again, experiment.encode(rows)).metrics(experiment.objective.metrics)
    assert figures == {key: pytest.approx(whole.metrics[key], rel=1e-5, abs=1e-6) for key in figures}

    assert whole.metrics["best_step"] == 4
    if not learned:
        return  # all that a checkpoint holds is the method's, whose contract resumes it

    # As if it had been cut off behind step 2, with another prompt as the best till then.
    kept = (whole.run_dir / "prompt.safetensors").read_bytes()
    shutil.rmtree(whole.run_dir / "checkpoints" / "4")
    (whole.run_dir / "result.json").unlink()
    earlier = dataclasses.replace(prompt, head=jax.tree.map(np.zeros_like, prompt.head))
    jaxprompt.save_prompt(earlier, whole.run_dir)
    assert (whole.run_dir / "prompt.safetensors").read_bytes() != kept
    resumed = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    assert resumed.metrics == whole.metrics
    assert (whole.run_dir / "prompt.safetensors").read_bytes() == kept
