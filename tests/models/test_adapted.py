"""Changes of weights: the same as the weights themselves, changed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.methods import METHODS, Start
from jaxprompt.methods.bitfit import BitFit
from jaxprompt.methods.ia3 import Ia3, Ia3Options
from jaxprompt.methods.lora import Lora, LoraOptions
from jaxprompt.methods.norms import Norms
from jaxprompt.models.adapted import Adapted, adapted, layer_weights, targets
from jaxprompt.models.layers import linear
from jaxprompt.models.quantized import KINDS
from jaxprompt.prompts import Prompt
from jaxprompt.types import Conditioning, Delta
from tests.conftest import GOLDEN, STORIES

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
    products = {path: jnp.einsum("lor,lri->loi", delta.b, delta.a) for path, delta in deltas.items()}
    return shifted(params, {path: Delta(shift=product) for path, product in products.items()})


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


def shifted(params, deltas):
    """Parameters, stacked or apart, with what is added to them."""
    params = jax.tree.map(lambda x: x, params)
    for path, delta in deltas.items():
        *where, last = path.split("/")
        tree = params
        for name in where:
            tree = tree[name]
            if name == "layers" and "0" in tree:
                inside = "/".join(where[where.index("layers") + 1 :])
                for layer, own in tree.items():
                    part = {f"{inside}/{last}": Delta(shift=delta.shift[int(layer)])}
                    tree[layer] = shifted(own, part)
                break
        else:
            tree[last] = tree[last] + delta.shift
    return params


# Norms of queries and keys, norms on both sides, biases of everything, two sides; in loops and one by one.
@pytest.mark.parametrize("unroll", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("model", "method"),
    [("gpt2", "bitfit"), ("bert-untied", "norms"), ("qwen3", "norms")]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("bert-untied", "bitfit"),
            ("gptj", "bitfit"),
            ("bart", "bitfit"),
            ("t5", "norms"),
            ("gemma3", "norms"),
        )
    ],
)
def test_what_is_added_is_as_if_it_were_in_the_parameters(model, method, unroll):
    backbone = jaxprompt.load_backbone(GOLDEN / model, unroll=unroll)
    made = METHODS[method].build(METHODS[method].Options(), 0, backbone)
    zeros = made.init(jax.random.key(0), Start(backbone))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(zeros))
    conditioning = learned(backbone, made)
    whole = dataclasses.replace(backbone, params=shifted(backbone.params, conditioning.deltas))
    more = {"decoder_input_ids": IDS[:, :3] % 61} if backbone.seq2seq else {}
    run = backbone.logits if backbone.has_head else backbone.hidden
    again = whole.logits if backbone.has_head else whole.hidden
    found = run(IDS % 61, prompt=Prompt(conditioning), **more)
    np.testing.assert_allclose(found, again(IDS % 61, **more), atol=2e-5)
    assert np.abs(np.asarray(found) - np.asarray(run(IDS % 61, **more))).max() > 0.1


def test_bitfit_takes_the_biases_that_are_named():
    backbone = jaxprompt.load_backbone(GOLDEN / "gpt2")
    # Queries and the wide product of the MLP: what the paper finds to be enough.
    some = BitFit.build(BitFit.Options(targets=["q", "up"]), 0, backbone)
    assert some.shapes == {"layers/attention/q/bias": (3, 24), "layers/mlp/up/bias": (3, 96)}
    assert len(BitFit.build(BitFit.Options(), 0, backbone).shapes) == 9
    with pytest.raises(
        InputError, match=r"^method\.targets has 'query', of which this model has no bias \(choose from:"
    ):
        BitFit.build(BitFit.Options(targets=["query"]), 0, backbone)
    with pytest.raises(InputError, match=r"learns biases, of which .* has none: choose norms, lora or ia3$"):
        BitFit.build(BitFit.Options(), 0, jaxprompt.load_backbone(GOLDEN / "llama-untied"))


def test_small_changes_of_a_norm_are_not_lost_in_16_bits():
    backbone = jaxprompt.load_backbone(GOLDEN / "llama-untied", dtype="bfloat16")
    method = Norms.build(Norms.Options(), 0, backbone)
    deltas = {path: Delta(shift=np.full(shape, 1e-5, np.float32)) for path, shape in method.shapes.items()}
    for name in ("attention_norm", "mlp_norm"):
        before, after = (
            tree["layers"][name]["weight"]
            for tree in (backbone.params, adapted(backbone.params, Conditioning(deltas=deltas)))
        )
        np.testing.assert_allclose(after - before.astype(np.float32), 1e-5, rtol=0.1)
    # Products stay in the model's type.
    added = adapted(backbone.params, Conditioning(deltas={"layers/mlp/up/weight": Delta(shift=np.ones((3, 36, 24)))}))
    assert added["layers"]["mlp"]["up"]["weight"].dtype == "bfloat16"


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_model_has_its_biases_and_norms_learned_and_keeps_its_products(kind):
    backbone = jaxprompt.load_backbone(GOLDEN / "gpt2", quantize=kind)
    for method in (BitFit, Norms):
        conditioning = learned(backbone, method.build(method.Options(), 0, backbone))
        whole = dataclasses.replace(backbone, params=shifted(backbone.params, conditioning.deltas))
        found = backbone.logits(IDS % 61, prompt=Prompt(conditioning))
        np.testing.assert_allclose(found, whole.logits(IDS % 61), atol=1e-5)
    product = Conditioning(deltas={"layers/mlp/up/weight": Delta(shift=np.zeros((3, 96, 24), np.float32))})
    with pytest.raises(
        InputError, match=r"adds to 'layers/mlp/up/weight', which .* keeps in few bits: load it without"
    ):
        backbone.logits(IDS % 61, prompt=Prompt(product))


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
    shift = {"final_norm/weight": Delta(shift=np.ones(63, np.float32))}
    with pytest.raises(InputError, match=r"has shift \[63\], .* needs \[64\]"):
        stories.logits(IDS, prompt=Prompt(Conditioning(deltas=shift)))
    half = {path: Delta(a=delta.a) for path, delta in conditioning.deltas.items()}
    with pytest.raises(InputError, match="a without b of the same rank"):
        jaxprompt.save_prompt(Prompt(dataclasses.replace(conditioning, deltas=half)), tmp_path / "half.safetensors")


def test_nothing_changes_without_changes(stories):
    assert adapted(stories.params, Conditioning()) is stories.params
