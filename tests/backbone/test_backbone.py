import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.backbone import load_backbone, random_backbone
from jaxprompt.backbone.padded import _forward
from jaxprompt.errors import InputError
from jaxprompt.ops.views import joined_padding
from jaxprompt.prompts import Prompt
from jaxprompt.types import Conditioning, Inputs, Prefix

GOLDEN = Path(__file__).parents[1] / "golden"
V, D = 61, 24


@pytest.fixture(scope="module")
def decoders():
    # Without recomputation programs compile faster; tests/models/test_stack.py is about recomputation.
    names = ("gpt2", "gpt2-by-layer", "llama3-tied-biases")
    return {name: load_backbone(GOLDEN / name, remat="none") for name in names}


@pytest.fixture(scope="module")
def llama(decoders):
    return decoders["llama3-tied-biases"]


@pytest.fixture(scope="module")
def bert():
    return load_backbone(GOLDEN / "bert-pretraining")


def close(got, want, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=tolerance, atol=tolerance)


def soft_prompt(length, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(length, D)), jnp.float32)


def rows(ids, start=0):
    """One segment per row."""
    ids = jnp.asarray(ids)
    return Inputs(ids, jnp.broadcast_to(jnp.arange(start, start + ids.shape[1]), ids.shape), jnp.ones_like(ids))


IDS = np.random.default_rng(1).integers(0, V, (2, 5))


def test_prefill_equals_concatenation_with_gradient(llama):
    """The computation that makes prompt tuning fast gives what concatenating the prompt to each row gives."""
    backbone = llama
    head = jnp.asarray([V, V + 1, 7, V + 2])  # soft tokens around a hard one

    def hoisted(soft, params):
        prefix = backbone.prefill(params, head, soft=soft)
        hidden = backbone.apply(params, rows(IDS, start=4), prefix=prefix)
        return (hidden**2).sum(), hidden

    def concatenated(soft, params):
        ids = jnp.concatenate([jnp.broadcast_to(head, (2, 4)), IDS], axis=1)
        hidden = backbone.apply(params, rows(ids), soft=soft)[:, 4:]
        return (hidden**2).sum(), hidden

    soft = soft_prompt(3)
    (_, got), got_grad = jax.jit(jax.value_and_grad(hoisted, has_aux=True))(soft, backbone.params)
    (_, want), want_grad = jax.jit(jax.value_and_grad(concatenated, has_aux=True))(soft, backbone.params)
    close(got, want)
    assert np.abs(want_grad).min() > 1e-4
    close(got_grad, want_grad, 1e-3)


def test_prefill_continues_a_prefix(llama):
    soft = soft_prompt(2)

    @jax.jit
    def both(params):
        whole = llama.prefill(params, jnp.asarray([3, 4, V, V + 1, 5]), soft=soft)
        first = llama.prefill(params, jnp.asarray([3, 4]))
        return whole, llama.prefill(params, jnp.asarray([V, V + 1, 5]), soft=soft, prefix=first)

    whole, continued = both(llama.params)
    assert (whole.length, continued.length) == (5, 5)
    assert whole.keys.shape == (3, 5, 2, 10)
    close(continued.keys, whole.keys)
    close(continued.values, whole.values)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ["gpt2", "gpt2-by-layer", "llama3-tied-biases"])
def test_a_prompt_beside_the_rows_equals_a_prefilled_one(decoders, name, device, monkeypatch):
    """Behind a hard prefix, at some positions and at all of them; for a GPU with padding behind the rows."""
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    assert (joined_padding(3 + np.size(IDS)) > 0) == (device == "gpu")
    backbone, soft, prompt = decoders[name], soft_prompt(2), jnp.asarray([V, 5, V + 1])
    at = jnp.asarray([[1, 2], [2, 0]])

    @jax.jit
    def both(params):
        prefix = backbone.prefill(params, jnp.asarray([3, 4]))
        behind = backbone.prefill(params, prompt, soft=soft, prefix=prefix)
        inputs = rows(IDS, start=5)
        return [
            (backbone.apply(params, inputs, prefix=behind, at=where),
             backbone.apply(params, inputs, soft=soft, prefix=prefix, prompt=prompt, at=where))
            for where in (None, at)
        ]  # fmt: skip

    for want, got in both(backbone.params):
        close(got, want)


def packed(segments, rows_of):
    """Packs `[ids, ids, ...]` into one row, with padding behind."""
    ids = np.concatenate([*rows_of, [0, 0]])
    positions = np.concatenate([*(np.arange(len(part)) for part in rows_of), [0, 0]])
    segment = np.concatenate([*([n] * len(part) for n, part in zip(segments, rows_of, strict=True)), [0, 0]])
    return Inputs(*(jnp.asarray(x)[None] for x in (ids, positions, segment)))


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_packed_segments_equal_separate_rows(decoders, bert, name):
    backbone = {**decoders, "bert": bert}[name]
    soft = soft_prompt(2)
    parts = [np.array([V, V + 1, 3, 4]), np.array([V, 9, V + 1]), np.array([8, 7])]
    shape = (3, 4, backbone.num_kv_heads, backbone.head_dim)
    rng = np.random.default_rng(2)
    # length 0: positions restart at 0 in `packed`.
    prefix = Prefix(jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=shape)), 0)
    apply = jax.jit(lambda params, inputs: backbone.apply(params, inputs, soft=soft, prefix=prefix))
    together = apply(backbone.params, packed([1, 2, 3], parts))[0]
    assert np.isfinite(together).all()
    start = 0
    for part in parts:
        # Padded to one shape, so that one compilation serves all.
        alone = apply(backbone.params, packed([1], [np.concatenate([part, np.zeros(9 - len(part), int)])]))
        if backbone.causal:
            close(together[start : start + len(part)], alone[0, : len(part)])
        start += len(part)
    if not backbone.causal:
        first = apply(backbone.params, packed([1, 2], [parts[0], np.zeros(5, int)]))[0, :4]
        close(together[:4], first)


def test_branches_share_a_trunk_and_not_each_other(llama):
    trunk, branches = [3, 4, 5], [[6, 7], [8, 9, 10]]
    ids = jnp.asarray([trunk + branches[0] + branches[1]])
    positions = jnp.asarray([[0, 1, 2, 3, 4, 3, 4, 5]])
    inputs = Inputs(ids, positions, jnp.ones_like(ids), branches=jnp.asarray([[0, 0, 0, 1, 1, 2, 2, 2]]))
    together = jax.jit(llama.apply)(llama.params, inputs)[0]
    plain = jax.jit(lambda params, ids: llama.apply(params, rows(ids)))
    close(together[:5], plain(llama.params, jnp.asarray([trunk + branches[0] + [0]]))[0, :5])
    close(together[5:], plain(llama.params, jnp.asarray([trunk + branches[1]]))[0, 3:])


def test_cached_decoding_equals_the_full_forward(llama):
    """Prompts of different lengths, right-padded, behind a shared prefix; then one token at a time."""
    backbone = llama
    lengths, steps = np.array([4, 2]), 3
    rng = np.random.default_rng(3)
    texts = rng.integers(0, V, (2, 7))
    soft = soft_prompt(2)
    prefix = jax.jit(lambda params: backbone.prefill(params, jnp.asarray([V, V + 1]), soft=soft))(backbone.params)
    want = jax.jit(lambda params: backbone.apply(params, rows(texts, start=2), prefix=prefix))(backbone.params)

    @jax.jit
    def decode(params, ids, positions, real, cache):
        return backbone.apply(params, Inputs(ids, positions, real), prefix=prefix, cache=cache)

    columns = np.arange(4)
    real = (columns < lengths[:, None]).astype(np.int32)
    # One slot less than the prompt would need with its padding and all steps: what does not fit is dropped.
    cache = backbone.empty_cache(rows=2, length=int(lengths.max()) + steps)
    hidden, cache = decode(backbone.params, texts[:, :4], np.broadcast_to(columns + 2, (2, 4)), real, cache)
    np.testing.assert_array_equal(cache.index, lengths)
    for row, length in enumerate(lengths):
        close(hidden[row, :length], want[row, :length])
    for step in range(steps):
        at = lengths + step
        ids = texts[np.arange(2), at][:, None]
        hidden, cache = decode(backbone.params, ids, (at + 2)[:, None], np.ones((2, 1), np.int32), cache)
        close(hidden[:, 0], np.asarray(want)[np.arange(2), at])


def test_finished_rows_do_not_disturb_the_cache(llama):
    """Tokens of segment 0 do not advance a row, and slots past the end are dropped."""
    cache = llama.empty_cache(rows=2, length=2)
    cache = dataclasses.replace(cache, index=jnp.asarray([0, 2], jnp.int32))
    ids = jnp.asarray([[5], [6]])
    _, after = jax.jit(lambda params, cache: llama.apply(params, Inputs(ids, ids * 0, ids * 0), cache=cache))(
        llama.params, cache
    )
    np.testing.assert_array_equal(after.index, cache.index)
    assert np.abs(after.keys[:, 0, 0]).max() > 0
    assert np.abs(after.keys[:, 1]).max() == 0


def test_head_at_columns(llama, bert):
    hidden = soft_prompt(3)
    for backbone in (llama, bert):
        full = backbone.head(backbone.params, hidden)
        columns = jnp.asarray([7, 3, 60])
        assert full.shape == (3, V)
        close(backbone.head(backbone.params, hidden, columns), full[:, columns])


def test_embed_looks_soft_ids_up_in_the_prompt(llama):
    soft = soft_prompt(2)
    out = llama.embed(llama.params, jnp.asarray([[4, V + 1, V, 60]]), soft)[0]
    table = llama.word_embedding(llama.params)
    np.testing.assert_array_equal(out, jnp.stack([table[4], soft[1], soft[0], table[60]]))
    # An id that nothing answers to must not pass silently.
    assert np.isnan(llama.embed(llama.params, jnp.asarray([[V + 2]]), soft)).all()
    assert np.isnan(llama.embed(llama.params, jnp.asarray([[V]]))).all()


def test_prompt_forms_of_logits(llama):
    """An array, and an object with a soft prompt, a prefix, or both."""
    soft = soft_prompt(4)
    want = llama.logits(IDS, prompt=soft)
    assert want.shape == (2, 5, V)
    np.testing.assert_array_equal(llama.logits(IDS.tolist(), prompt=SimpleNamespace(soft=soft, prefix=None)), want)
    prefix = jax.jit(lambda params: llama.prefill(params, jnp.asarray([V, V + 1]), soft=soft))(llama.params)
    close(llama.logits(IDS, prompt=SimpleNamespace(soft=soft[2:], prefix=prefix)), want, 1e-4)


def test_bfloat16_is_near_float32(llama):
    half = load_backbone(GOLDEN / "llama3-tied-biases", dtype="bfloat16")
    soft = soft_prompt(4)  # float32, as it is trained
    got, want = half.logits(IDS, prompt=soft), llama.logits(IDS, prompt=soft)
    assert got.dtype == jnp.float32
    assert jax.eval_shape(half.apply, half.params, rows(IDS)).dtype == jnp.bfloat16
    assert np.ptp(want) > 8
    assert 0 < np.abs(np.asarray(got) - np.asarray(want)).mean() < 0.05


def test_parameters_are_arguments_of_the_program():
    """Captured arrays would be baked into the program as constants: a megabyte of them here."""
    stories = load_backbone(GOLDEN / "stories260K")
    lowered = _forward.lower(stories.module, True, stories.params, IDS, np.ones_like(IDS), None, None)
    assert len(lowered.as_text()) < 100_000


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize("unroll", [None, True])
def test_a_backbone_tells_whether_its_layers_are_unrolled(name, unroll):
    assert load_backbone(GOLDEN / name, unroll=unroll).unrolled == (unroll is True)


def test_random_backbone_is_deterministic(llama):
    one, same, other = (random_backbone(llama.config, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.params["word"]["weight"], same.params["word"]["weight"])
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert not np.array_equal(one.params["word"]["weight"], other.params["word"]["weight"])
    assert jax.tree.structure(one.params) == jax.tree.structure(llama.params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2], [3]],), "rows of one length"),
        (([1, 2],), r"integers \[rows, seq\]"),
        (([[0.5]],), "integers"),
        (([[61]],), "0 to 60"),
        (([[1, 2]], [[1]]), "must agree"),
        (([[1]], None, np.zeros((3, 25))), r"\[3, 25\], this model needs \[prompt_length, 24\]"),
        (([[1]], None, np.zeros(24)), r"\[24\], this model needs"),
        (([[1]], None, Prefix(np.zeros((2, 3, 2, 10)), np.zeros((2, 3, 2, 10)), 3)), r"\[2, 3, 2, 10\]"),
        (([[1] * 60], None, np.zeros((5, 24))), "60 tokens behind a prompt of 5 exceed this model's 64 positions"),
    ],
)
def test_bad_input(llama, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        llama.logits(*arguments)
    assert "\n" not in str(error.value)


def test_what_a_model_cannot_do(llama, bert):
    headless = load_backbone(GOLDEN / "bert")
    assert (headless.has_head, bert.has_head, llama.has_head) == (False, True, True)
    with pytest.raises(InputError, match="masked-language-model head"):
        headless.logits(IDS)
    with pytest.raises(InputError, match="not causal"):
        bert.prefill(bert.params, jnp.asarray([V]), soft=soft_prompt(1))
    with pytest.raises(InputError, match="no generation cache"):
        bert.apply(bert.params, rows(IDS), cache=bert.empty_cache(2, 5))
    with pytest.raises(InputError, match="no pooler"):
        llama.pool(llama.params, soft_prompt(1))
    with pytest.raises(InputError, match=r"no (usable )?tokenizer"):
        _ = llama.tokenizer


def test_import_is_light():
    """No device is touched and neither transformers nor torch is imported."""
    code = (
        "import sys, jaxprompt.backbone.backbone; "
        "assert not {'transformers', 'torch', 'huggingface_hub'} & set(sys.modules), 'heavy import'"
    )
    # A platform that does not exist makes any use of a device fail.
    environment = {"JAX_PLATFORMS": "no_such_platform", "PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


def test_a_prompt_that_stands_in_the_decoder_is_not_put_into_the_encoder():
    t5 = load_backbone(GOLDEN / "t5")
    arrays = {"soft": np.zeros((3, t5.soft_size), np.float32)}
    ids, decoder_ids = [[5, 6, 7]], [[0, 4]]
    right = Prompt(Conditioning(**arrays), info={"template": "{soft:3} {text} {target}"})
    close(t5.logits(ids, None, right, decoder_ids), t5.logits(ids, None, arrays["soft"], decoder_ids))
    for template in ("{text} {decoder} {soft:3}{target}", "{soft:1} {text} {decoder}{soft:2} {target}"):
        with pytest.raises(InputError, match="soft rows in the decoder"):
            t5.logits(ids, None, Prompt(Conditioning(**arrays), info={"template": template}), decoder_ids)
