"""Decoding against the plain computation and the published reference."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.inference import generate as generation
from jaxprompt.inference.decode import sample
from jaxprompt.prompts import Prompt
from jaxprompt.types import Conditioning, Prefix

GOLDEN = Path(__file__).parents[1] / "golden"
TEXTS = ["Once upon a time", "The dog", "Lily and her mom went to the park to play. They saw", "A"]


def greedy_ids(backbone, ids, count, prompt=None, length=64):
    """The most likely continuation by whole forward passes, no cache. One length, hence one compilation."""
    ids = list(ids)
    for _ in range(count):
        padding = length - len(ids)
        logits = backbone.logits([ids + [0] * padding], [[1] * len(ids) + [0] * padding], prompt)
        ids.append(int(np.argmax(logits[0, len(ids) - 1])))
    return ids


def soft_prompt(rows=5):
    return Prompt(Conditioning(soft=np.random.default_rng(3).normal(size=(rows, 64)).astype(np.float32)))


def prefix_prompt():
    keys, values = np.random.default_rng(4).normal(size=(2, 5, 6, 4, 8)).astype(np.float32)
    return Prompt(Conditioning(prefix=Prefix(keys, values, 6)))


def test_greedy_continuation_equals_the_published_one(stories):
    (text,) = jaxprompt.generate(stories, ["Once upon a time"], max_new_tokens=40)
    assert text.startswith(", there was a little girl named Lily. She loved to play outside in the park.")


@pytest.mark.parametrize("prompt", [None, soft_prompt(), prefix_prompt()], ids=["bare", "soft", "prefix"])
def test_the_cache_and_batches_of_mixed_lengths_change_nothing(stories, prompt):
    written = jaxprompt.generate(stories, TEXTS, prompt, max_new_tokens=12, batch_size=3)
    raw = None if prompt is None else prompt.soft if prompt.soft is not None else prompt.prefix
    for text, continuation in zip(TEXTS, written, strict=True):
        context = stories.tokenizer(text)["input_ids"]
        ids = greedy_ids(stories, context, 12, raw)
        whole = stories.tokenizer.decode(ids, skip_special_tokens=True)
        assert whole == stories.tokenizer.decode(context, skip_special_tokens=True) + continuation
    if prompt is not None:
        assert written != jaxprompt.generate(stories, TEXTS, max_new_tokens=12)


@pytest.mark.parametrize("prompt", [None, soft_prompt(), prefix_prompt()], ids=["bare", "soft", "prefix"])
def test_unrolled_layers_write_what_the_loop_does(stories, prompt):
    unrolled = jaxprompt.load_backbone(GOLDEN / "stories260K", unroll=True)
    options = {"max_new_tokens": 12, "num_beams": 2}
    assert jaxprompt.generate(unrolled, TEXTS, prompt, **options) == jaxprompt.generate(
        stories, TEXTS, prompt, **options
    )


def _as_prefix(prompt):
    return {"keys": jnp.asarray(prompt.prefix.keys), "values": jnp.asarray(prompt.prefix.values), "length": 6}


def test_a_learned_template_lays_out_the_context(stories, rows, tmp_path, quiet):
    result = jaxprompt.train(
        {
            "model": "m",
            "template": "{bos}{soft:3}A story about {text}.{target}",
            "data": {"train": rows},
            "train": {"steps": 2},
            "run_dir": str(tmp_path / "run"),
        },
        backbone=stories,
        reporter=quiet,
    )
    written = jaxprompt.generate(stories, ["a dog", {"text": "a ball"}], result.prompt, max_new_tokens=8)

    @jax.jit
    def prefix_of(params, soft):
        # By hand: the first token, the prompt behind it.
        bos = stories.prefill(params, jnp.array([stories.tokenizer.bos_token_id]))
        return stories.prefill(params, stories.vocab_size + jnp.arange(3), soft=soft, prefix=bos)

    prefix = prefix_of(stories.params, jnp.asarray(result.prompt.soft))
    for subject, continuation in zip(("a dog", "a ball"), written, strict=True):
        context = stories.tokenizer(f"A story about {subject}.", add_special_tokens=False)["input_ids"]
        ids = greedy_ids(stories, context, 8, prefix)
        text = stories.tokenizer.decode(ids, skip_special_tokens=True).split("</s>")[0]
        before = stories.tokenizer.decode(context, skip_special_tokens=True)
        eos = stories.tokenizer.eos_token_id
        if eos in ids[len(context) :]:
            text = stories.tokenizer.decode(ids[: ids.index(eos)], skip_special_tokens=True)
        assert text == before + continuation


def test_sampling_follows_the_seed_and_its_limits(stories):
    options = {"max_new_tokens": 10, "temperature": 1.5}
    one, same, other = (jaxprompt.generate(stories, TEXTS[:1], seed=seed, **options) for seed in (1, 1, 2))
    assert one == same != other
    greedy = jaxprompt.generate(stories, TEXTS[:1], max_new_tokens=10)
    assert jaxprompt.generate(stories, TEXTS[:1], top_k=1, **options) == greedy
    assert jaxprompt.generate(stories, TEXTS[:1], top_p=1e-6, **options) == greedy


def test_top_k_and_top_p_keep_the_right_tokens():
    logits = jnp.log(jnp.array([[0.1, 0.5, 0.25, 0.15]]))
    keys = jax.random.split(jax.random.key(0), 300)

    def drawn(top_k=None, top_p=None):
        return {int(t) for t in jax.vmap(lambda key: sample(logits, key, 1.0, top_k, top_p)[0])(keys)}

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {1, 2}
    assert drawn(top_p=0.5) == {1}
    assert drawn(top_p=0.51) == {1, 2}
    assert drawn(top_p=0.8) == {1, 2, 3}
    shares = (
        np.bincount([int(t) for t in jax.vmap(lambda k: sample(logits, k, 1.0, 2, None)[0])(keys)], minlength=4) / 300
    )
    assert abs(shares[1] - 2 / 3) < 0.1


def test_bad_requests_are_refused(stories, minilm):
    for options, says in (
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0}, "top_p is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 600}, "512 positions"),
    ):
        with pytest.raises(InputError, match=says):
            jaxprompt.generate(stories, TEXTS, **options)
    with pytest.raises(InputError, match="encoder"):
        jaxprompt.generate(minilm, TEXTS)
    with pytest.raises(InputError, match="32 wide"):
        jaxprompt.generate(stories, TEXTS, Prompt(Conditioning(soft=np.zeros((2, 32), np.float32))))
    assert jaxprompt.generate(stories, []) == []


def test_a_source_that_is_too_long_is_refused(monkeypatch):
    bart = jaxprompt.load_backbone(GOLDEN / "bart")
    bart = dataclasses.replace(bart, read_tokenizer=lambda: SimpleNamespace(eos_token_id=2))
    source = [5] * (bart.max_positions + 1)
    monkeypatch.setattr(generation, "_contexts", lambda backbone, texts, prompt: ([], [[2]], [source]))
    with pytest.raises(InputError, match=f"a source of {len(source)} tokens, .* {bart.max_positions} positions"):
        jaxprompt.generate(bart, ["x"], max_new_tokens=2)


@pytest.mark.parametrize("options", [{"early_stopping": "never"}, {"num_beams": 1.5}])
def test_options_of_another_kind_are_refused(stories, options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is {next(iter(options.values()))}"):
        jaxprompt.generate(stories, ["x"], **options)
