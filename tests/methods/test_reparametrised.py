"""Methods that learn something else than they keep, against their formulas; rows that stay where they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.commands import main
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.methods import FROZEN, METHODS, Start
from jaxprompt.prompts.prompt import to_arrays
from tests.conftest import STORIES
from tests.methods.test_contract import config


def started(name, rows, backbone, **options):
    tree = config(name, rows)
    tree["method"] |= options
    experiment = build(load_config(tree), backbone)
    return experiment, experiment.init_trainable()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_residual_prompt_is_its_rows_and_what_the_network_makes_of_each(stories, rows, layer_norm):
    experiment, trainable = started("residual", rows, stories, bottleneck=7, layer_norm=layer_norm)
    soft, network = np.asarray(trainable["prompt"]["soft"]), jax.tree.map(np.asarray, trainable["encoder"])
    found = experiment.prompt(trainable).soft
    for row, was in zip(found, soft, strict=True):
        hidden = np.maximum(network["down"]["weight"] @ was + network["down"]["bias"], 0.0)
        change = network["up"]["weight"] @ hidden + network["up"]["bias"]
        if layer_norm:
            change = (change - change.mean()) / np.sqrt(change.var() + 1e-5)
        np.testing.assert_allclose(row, was + change, atol=1e-5)
    assert hidden.shape == (7,)


def test_a_superposition_is_a_mixture_of_words(stories, rows):
    experiment, trainable = started("superposition", rows, stories, words=9)
    words, mixture = np.asarray(trainable[FROZEN]["words"]), np.asarray(trainable["prompt"]["mixture"])
    assert words.shape == (9, 64) and mixture.shape == (4, 9)
    table = np.asarray(stories.word_embedding(stories.params))
    assert all((np.abs(table - word).max(-1) < 1e-6).any() for word in words)
    np.testing.assert_allclose(mixture.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(experiment.prompt(trainable).soft, mixture @ words, atol=1e-5)


def test_an_adaptive_prefix_is_a_prefix_times_a_gate_per_key_and_one_per_layer(rows):
    t5 = jaxprompt.load_backbone("tests/golden/t5")
    options = {"length": 3, "init": {"type": "normal"}}
    made = {
        name: METHODS[name].build(METHODS[name].Options(**options), 0, t5) for name in ("prefix", "adaptive_prefix")
    }
    plain, trainable = (method.init(jax.random.key(0), Start(t5)) for method in made.values())
    apply = {name: lambda of, method=method: to_arrays(method.apply(of)) for name, method in made.items()}
    before, folded = apply["prefix"](plain), apply["adaptive_prefix"](trainable)
    # It starts where prefix tuning does.
    jax.tree.map(np.testing.assert_array_equal, folded, before)
    assert set(before) == {"keys", "values", "source_keys", "source_values"}
    rng = np.random.default_rng(0)
    gates = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in trainable["gates"].items()}
    found = apply["adaptive_prefix"]({**trainable, "gates": gates})
    for name, array in before.items():
        side = name.removesuffix("keys").removesuffix("values")
        for layer, key in np.ndindex(array.shape[:2]):
            gate = gates[f"{side}layer"][layer] / (1 + np.exp(-gates[f"{side}token"][layer, key]))
            np.testing.assert_allclose(found[name][layer, key], gate * array[layer, key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "axis"), [("prefix", 1), pytest.param("soft", 0, marks=pytest.mark.slow)])
def test_frozen_rows_stay_whatever_the_optimizer_does(stories, rows, tmp_path, quiet, name, axis):
    tree = config(name, rows, run_dir=str(tmp_path / "run"))
    tree["method"] |= {"frozen": 2}
    # The decay of the published recipe reaches every row that is learned.
    tree["optimizer"] = {"name": "adafactor", "learning_rate": 0.3, "weight_decay": 0.1}
    experiment = build(load_config(tree), stories)
    before = experiment.prompt(experiment.init_trainable()).arrays
    after = jaxprompt.train(tree, backbone=stories, reporter=quiet).prompt.arrays
    plain = build(load_config(config(name, rows)), stories)
    for array, want in plain.prompt(plain.init_trainable()).arrays.items():
        np.testing.assert_array_equal(before[array], want)
        kept, learned = np.split(after[array], [2], axis=axis)
        start_kept, start_learned = np.split(before[array], [2], axis=axis)
        np.testing.assert_array_equal(kept, start_kept)
        assert (np.abs(learned - start_learned) > 0).mean() > 0.9


def test_what_leaves_nothing_to_learn_is_refused(stories, rows):
    with pytest.raises(InputError, match=r"^method\.frozen 4 leaves none of 4 soft tokens to learn: lower it$"):
        started("soft", rows, stories, frozen=4)
    with pytest.raises(InputError, match=r"^method\.frozen 16 leaves none of 16 keys \(method\.length\) to learn"):
        started("prefix", rows, stories, frozen=16)
    with pytest.raises(InputError, match=r"optimizer\.rates has 'frozen', which is not learned here"):
        tree = config("soft", rows, optimizer={"rates": {"frozen": 0.1}})
        tree["method"] |= {"frozen": 2}
        jaxprompt.train(tree, backbone=stories)


def test_the_network_of_a_prompt_has_a_rate_of_its_own(stories, rows, tmp_path, quiet):
    tree = config("p_tuning", rows, run_dir=str(tmp_path / "run"), train={"steps": 2, "batch_size": 4})
    tree["optimizer"] = {"name": "sgd", "learning_rate": 0.1, "rates": {"encoder": 0.0}}
    experiment = build(load_config(tree), stories)
    start = experiment.init_trainable()
    prompt = jaxprompt.train(tree, backbone=stories, reporter=quiet).prompt
    # By another embedding through the same network.
    assert np.abs(prompt.soft - experiment.prompt(start).soft).max() > 0
    assert jax.tree.all(jax.tree.map(lambda x: jnp.isfinite(x).all(), start))


def test_both_sides_of_an_encoder_decoder_get_a_projected_prefix(request, rows):
    t5 = jaxprompt.load_backbone("tests/golden/t5")
    options = METHODS["projected_prefix"].Options(length=3, hidden=5)
    method = METHODS["projected_prefix"].build(options, 0, t5)
    conditioning = method.apply(method.init(jax.random.key(0), Start(t5)))
    layers, heads, dim = t5.prefix_shape
    assert conditioning.prefix.keys.shape == (layers, 3, heads, dim) and conditioning.prefix.length == 3
    layers, heads, dim = t5.source_prefix_shape
    assert conditioning.source_prefix.values.shape == (layers, 3, heads, dim)
    assert conditioning.source_prefix.length == 0


def test_the_command_lists_every_method_and_counts(capsys):
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{name}\n" in f"\n{text}" for name in METHODS) and "numbers" not in text
    assert main(["methods", "--model", STORIES, "--length", "5"]) == 0
    text = capsys.readouterr().out
    assert "320 numbers are learned, 320 kept" in text  # 5 rows of 64
    assert "numbers are learned, 1,600 kept" in text  # 5 layers, 5 keys and values of 4 heads of 8
    assert main(["methods", "--model", STORIES, "--length", "3"]) == 0
    assert "not of this length: method.rank 4 is more than 3 soft tokens" in capsys.readouterr().out
    assert main(["methods", "--length", "0"]) == 2
