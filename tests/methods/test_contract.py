"""What every method of the table must do: a new one is tested by being listed."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.inference.predict import load_run
from jaxprompt.inference.score import score
from jaxprompt.methods import METHODS
from tests.conftest import STORIES, with_biases
from tests.devices import run_on_eight_devices

# Weights are changed by less than prompts are.
RATES = {"lora": 0.005, "together": 0.005, "bitfit": 0.005, "norms": 0.01, "full": 0.001}
LEARNING = [name for name in METHODS if name != "none"]


def fitting(name, stories):
    """The model that a method is tested with."""
    return with_biases(stories) if name == "bitfit" else stories


def config(name, rows, **sections):
    soft = "{soft:4}" if METHODS[name].fills_slots else ""
    method = {"name": name} | ({"init": {"top_k": 50}} if "init" in METHODS[name].Options.model_fields else {})
    if name == "together":
        method = {
            "name": name,
            "parts": [{"name": "soft", "init": {"top_k": 50}}, {"name": "prefix"}, {"name": "lora"}],
        }
    if name == "attempt":
        method["sources"] = [{"type": "text", "text": text} for text in ("A good film or", "It was so bad")]
    template = f"Read this. {soft}Review: {{text}} It was {{target}}"
    if name == "cpt":  # before all else, and as long as its examples are
        method["examples"] = 2
        template = "{soft:54}Review: {text} It was {target}"
    return {
        "model": STORIES,
        "template": template,
        "method": method,
        "data": {"train": rows, "validation": rows[:5]},
        "optimizer": {"learning_rate": RATES.get(name, 0.05)},
        "train": {"steps": 6, "batch_size": 4, "eval_every": 3, "log_every": 1},
        **sections,
    }


@pytest.mark.parametrize("name", METHODS)
def test_the_start_is_fp32_and_folds_into_a_conditioning(stories, rows, name):
    experiment = build(load_config(config(name, rows)), fitting(name, stories))
    trainable = experiment.init_trainable()
    assert {leaf.dtype for leaf in jax.tree.leaves(trainable)} <= {jnp.dtype("float32")}
    prompt = experiment.prompt(trainable)
    assert bool(prompt.arrays) == (name != "none")
    assert experiment.method.positions == (prompt.prefix.length if prompt.prefix is not None else 0)


@pytest.mark.parametrize("name", METHODS)
def test_a_file_gives_back_what_was_folded(stories, rows, tmp_path, name):
    experiment = build(load_config(config(name, rows)), fitting(name, stories))
    prompt = experiment.prompt(experiment.init_trainable())
    again = jaxprompt.load_prompt(jaxprompt.save_prompt(prompt, tmp_path / "p.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, prompt.conditioning, again.conditioning)
    assert again.info["method"] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_killed_and_resumed_is_uninterrupted_and_what_is_kept_scores_as_what_is_learned(
    stories, rows, tmp_path, quiet, name
):
    tree, backbone = config(name, rows, run_dir=str(tmp_path / "run")), fitting(name, stories)
    whole = jaxprompt.train(tree, backbone=backbone, reporter=quiet)
    # As if it had been killed behind step 3.
    shutil.rmtree(whole.run_dir / "checkpoints" / "6")
    (whole.run_dir / "result.json").unlink()
    resumed = jaxprompt.train(tree, backbone=backbone, reporter=quiet)
    assert resumed.metrics == whole.metrics and whole.metrics["best_step"] == 6
    jax.tree.map(np.testing.assert_array_equal, whole.prompt.conditioning, resumed.prompt.conditioning)
    # What is kept, folded, scores as what was learned.
    experiment, prompt = load_run(whole.run_dir, backbone)
    found = score(experiment, prompt, experiment.encode(rows[:5])).metrics(experiment.objective.metrics)
    assert found["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-5)


def losses(experiment, trainable, **data):
    config = experiment.config.model_copy(update={"data": experiment.config.data.model_copy(update=data)})
    loaded = TrainingData.load(type(experiment)(config, *(getattr(experiment, n) for n in PARTS)))
    forward, total = experiment.forward(loaded.hoisted), 0.0
    frozen = forward.frozen()
    conditioning = experiment.method.apply(trainable)
    for batch in loaded.validation.batches():
        scores = jax.jit(forward)(conditioning, {}, frozen, batch)
        total += float(scores.loss)
    return total


PARTS = ("backbone", "method", "objective", "encoder")


@pytest.mark.parametrize("name", METHODS)
def test_packed_and_shared_equal_each_example_alone(stories, rows, name):
    experiment = build(load_config(config(name, rows)), fitting(name, stories))
    # Away from the start, so that what the method learns matters; hard text stands before the prompt.
    trainable = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), experiment.init_trainable()
    )
    fast = losses(experiment, trainable)
    alone = losses(experiment, trainable, packing=False, share_prefix=False)
    assert fast == pytest.approx(alone, rel=1e-5)


EIGHT = """
import json, sys
import jax, numpy as np, optax
import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.sharding import make_mesh, replicated, row_sharding
from jaxprompt.training.step import init_state, make_train_step
from tests.methods.test_contract import config, fitting
from tests.conftest import REVIEWS, STORIES

rows = [{"text": t, "label": y, "target": "good" if y else "so bad"} for t, y in REVIEWS]
found = {}
for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(data=2, fsdp=2, tensor=2)):
    backbone = jaxprompt.load_backbone(STORIES, mesh=mesh)
    for name in sys.argv[1:]:
        experiment = build(load_config(config(name, rows)), fitting(name, backbone))
        data, optimizer = TrainingData.load(experiment), optax.sgd(1.0)
        step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer)
        state = jax.device_put(init_state(experiment.init_trainable(), optimizer), replicated(mesh))
        state, _ = step(state, jax.device_put(next(data.train_batches(0)), row_sharding(mesh)))
        found.setdefault(name, []).append(float(optax.tree.norm(state.trainable)))
print(json.dumps(found))
"""


# One of each way to reach a model: rows of text, keys and values, what depends on the example, changed products.
OF_EACH_KIND = ("soft", "prefix", "idpg", "lora")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(OF_EACH_KIND, marks=pytest.mark.slow),
        pytest.param([name for name in LEARNING if name not in OF_EACH_KIND], marks=pytest.mark.long),
    ],
    ids=["of_each_kind", "others"],
)
def test_eight_devices_take_the_step_of_one(names):
    found = json.loads(run_on_eight_devices(EIGHT, *names))
    assert list(found) == list(names)
    for one, split in found.values():
        assert split == pytest.approx(one, rel=2e-4)


def test_a_low_rank_prompt_is_a_product_and_starts_at_the_nearest_one(stories, rows):
    tree = config("low_rank", rows)
    nearest = build(load_config(tree, ["method.rank=4"]), stories)
    soft = build(load_config(tree, ["method.name=soft"]), stories)
    want = soft.prompt(soft.init_trainable()).soft
    # Of full rank it starts where a soft prompt does.
    np.testing.assert_allclose(nearest.prompt(nearest.init_trainable()).soft, want, atol=1e-5)
    thin = build(load_config(tree, ["method.rank=2"]), stories)
    trainable = thin.init_trainable()
    assert {name: x.shape for name, x in trainable["prompt"].items()} == {"u": (4, 2), "v": (2, 64)}
    found = thin.prompt(trainable).soft
    assert np.linalg.matrix_rank(found) == 2
    _, scale, _ = np.linalg.svd(want)
    assert np.linalg.norm(found - want) == pytest.approx(np.linalg.norm(scale[2:]), rel=1e-3)
    with pytest.raises(jaxprompt.InputError, match=r"method\.rank 5 is more than 4 soft tokens"):
        build(load_config(tree, ["method.rank=5"]), stories)


def test_only_soft_rows_leave_the_text_before_them_as_it_was(stories, rows):
    reaches = {}
    for name in METHODS:
        experiment = build(load_config(config(name, rows)), fitting(name, stories))
        reaches[name] = experiment.method.apply(experiment.init_trainable()).reaches_hard_text
    others = {
        "dept",
        "prefix",
        "projected_prefix",
        "adaptive_prefix",
        "gated_prefix",
        "lora",
        "ia3",
        "bitfit",
        "norms",
        "full",
        "together",
    }
    assert reaches == {name: name in others for name in METHODS}
