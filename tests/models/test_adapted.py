"""Changes of weights: the same as the weights themselves, changed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.methods import Start
from jaxprompt.methods.ia3 import Ia3, Ia3Options
from jaxprompt.methods.lora import Lora, LoraOptions
from jaxprompt.models.adapted import Adapted, adapted, layer_weights, targets
from jaxprompt.models.layers import linear
from jaxprompt.models.quantized import KINDS
from jaxprompt.prompts import Prompt
from jaxprompt.types import Conditioning, Delta
from tests.conftest import STORIES

IDS = np.array([[1, 403, 407, 261, 378, 300]])


def learned(backbone, method):
    """A conditioning away from its start."""
    trainable = method.init(jax.random.key(0), Start(backbone))
    leaves, structure = jax.tree.flatten(trainable)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.map(np.asarray, method.apply(structure.unflatten(moved)))


def merged(params, deltas):
    """Stacked parameters with the changes of low rank added to the weights."""
    params = jax.tree.map(lambda x: x, params)
    for path, delta in deltas.items():
        *where, last = path.split("/")
        tree = params
        for name in where:
            tree = tree[name]
        tree[last] = tree[last] + jnp.einsum("lor,lri->loi", delta.b, delta.a)
    return params


@pytest.mark.parametrize("name", ["stories", "minilm"])
def test_a_path_of_low_rank_is_its_product_added_to_the_weight(request, name):
    backbone = request.getfixturevalue(name)
    options = LoraOptions(rank=3, targets=sorted({path.split("/")[-2] for path in layer_weights(backbone.params)}))
    conditioning = learned(backbone, Lora.build(options, 0, backbone))
    whole = dataclasses.replace(backbone, params=merged(backbone.params, conditioning.deltas))
    found = backbone.hidden(IDS % 500, prompt=Prompt(conditioning))
    np.testing.assert_allclose(found, whole.hidden(IDS % 500), atol=2e-4)
    assert np.abs(np.asarray(found) - np.asarray(backbone.hidden(IDS % 500))).max() > 0.1


def test_layers_that_stand_apart_take_their_part_and_texts_are_written_alike(stories):
    apart = jaxprompt.load_backbone(STORIES, unroll=True)
    assert layer_weights(apart.params) == layer_weights(stories.params)
    conditioning = learned(stories, Lora.build(LoraOptions(targets=["q", "v", "down"]), 0, stories))
    prompt = Prompt(conditioning)
    np.testing.assert_allclose(apart.logits(IDS, prompt=prompt), stories.logits(IDS, prompt=prompt), atol=1e-4)
    whole = dataclasses.replace(stories, params=merged(stories.params, conditioning.deltas))
    given = {"max_new_tokens": 12}
    texts = ["Once upon a time", "The dog"]
    written = jaxprompt.generate(stories, texts, prompt, **given)
    assert written == jaxprompt.generate(whole, texts, **given) == jaxprompt.generate(apart, texts, prompt, **given)
    assert written != jaxprompt.generate(stories, texts, **given)


def test_factors_are_on_what_goes_in_and_what_comes_out(stories):
    method = Ia3.build(Ia3Options(outputs=["v"], inputs=["down"]), 0, stories)
    conditioning = learned(stories, method)
    params = jax.tree.map(lambda x: x, stories.params)
    for path, delta in conditioning.deltas.items():
        layer = params["layers"][path.split("/")[1]][path.split("/")[2]]
        if delta.factor is not None:
            layer["weight"] = layer["weight"] * delta.factor[:, :, None]
        else:
            layer["weight"] = layer["weight"] * delta.in_factor[:, None, :]
    whole = dataclasses.replace(stories, params=params)
    np.testing.assert_allclose(stories.logits(IDS, prompt=Prompt(conditioning)), whole.logits(IDS), atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_weight_is_changed_as_any_other(kind):
    quantized = jaxprompt.load_backbone(STORIES, quantize=kind)
    weight = jax.tree.map(lambda x: x[0], quantized.params["layers"]["mlp"]["up"]["weight"])
    out, inputs = weight.shape
    keys = jax.random.split(jax.random.key(0), 3)
    x, a, b = (jax.random.normal(k, shape) for k, shape in zip(keys, [(5, inputs), (2, inputs), (out, 2)], strict=True))
    found = linear(x, Adapted(weight, Delta(a=a, b=b)))
    np.testing.assert_allclose(found, linear(x, weight) + x @ a.T @ b.T, rtol=2e-5, atol=2e-4)
    # What is learned has a gradient through it, and the weight has none to keep.
    gradient = jax.grad(lambda b: linear(x, Adapted(weight, Delta(a=a, b=b))).sum())(b)
    np.testing.assert_allclose(gradient, np.broadcast_to((x @ a.T).sum(0), b.shape), rtol=1e-4, atol=1e-4)


def test_what_another_model_has_is_refused_by_name(stories, minilm, tmp_path):
    with pytest.raises(
        InputError, match=r"^method\.targets has 'query', which this model has not \(choose from: down,"
    ):
        targets(stories.params, ["query"])
    conditioning = learned(stories, Lora.build(LoraOptions(targets=["gate"]), 0, stories))
    path = jaxprompt.save_prompt(Prompt(conditioning), tmp_path / "p.safetensors")
    prompt = jaxprompt.load_prompt(path)
    jax.tree.map(np.testing.assert_array_equal, prompt.conditioning, conditioning)
    with pytest.raises(InputError, match=r"^the prompt changes 'layers/mlp/gate/weight', which .* has not"):
        prompt.check(minilm)
    deltas = {path: Delta(a=delta.a[:, :, :-1], b=delta.b) for path, delta in conditioning.deltas.items()}
    with pytest.raises(InputError, match=r"has a \[5, 8, 63\], .* needs \[5, 8, 64\]"):
        stories.logits(IDS, prompt=Prompt(dataclasses.replace(conditioning, deltas=deltas)))
    half = {path: Delta(a=delta.a) for path, delta in conditioning.deltas.items()}
    with pytest.raises(InputError, match="a without b of the same rank"):
        jaxprompt.save_prompt(Prompt(dataclasses.replace(conditioning, deltas=half)), tmp_path / "half.safetensors")


def test_nothing_changes_without_changes(stories):
    assert adapted(stories.params, Conditioning()) is stories.params
