"""Decoding against the plain computation and the published reference."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.inference import generate as generation
from jaxprompt.prompts import Prompt
from jaxprompt.scoring import writing
from jaxprompt.scoring.decode import sample
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
    monkeypatch.setattr(generation, "_contexts", lambda *_: writing.Contexts([], [[2]], [source]))
    with pytest.raises(InputError, match=f"a source of {len(source)} tokens, .* {bart.max_positions} positions"):
        jaxprompt.generate(bart, ["x"], max_new_tokens=2)


@pytest.mark.parametrize(
    "options",
    [
        *({"early_stopping": value} for value in ("never", 1)),
        *({"num_beams": value} for value in (1.5, True, 10**9, 513)),
        *({"max_new_tokens": value} for value in (2.5, None, "8")),
        *({"seed": value} for value in (0.5, -1, 2**32)),
        *({"batch_size": value} for value in (True, 0, None)),
        *({"temperature": value} for value in (float("nan"), float("inf"), "hot", None)),
        *({"top_k": value, "temperature": 1.0} for value in (2.5, 0)),
        *({"top_p": value, "temperature": 1.0} for value in (float("nan"), 1.5)),
        *({"length_penalty": value, "num_beams": 2} for value in (float("nan"), float("inf"), 100.0, -100.0)),
        *({"top_k": 5}, {"top_p": 0.9}, {"length_penalty": 2.0}, {"early_stopping": True}),  # without effect
    ],
)
def test_options_of_another_kind_are_refused(stories, options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is {next(iter(options.values()))}") as error:
        jaxprompt.generate(stories, ["x"], **options)
    assert "\n" not in str(error.value)


def test_limits_beyond_all_there_is_are_no_limits(stories):
    plain = jaxprompt.generate(stories, TEXTS[:1], max_new_tokens=4, temperature=1.0)
    options = {"max_new_tokens": np.int8(4), "temperature": np.float32(1), "top_k": 10**12, "batch_size": 10**9}
    assert jaxprompt.generate(stories, TEXTS[:1], **options) == plain


def test_a_search_larger_than_all_memory_is_refused_before_it_starts(monkeypatch, stories):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 5, "SC_PAGE_SIZE": 4096}.get)
    monkeypatch.setattr(writing, "decode", None)
    with pytest.raises(InputError, match=r"num_beams 2 and 12 tokens need .* lower batch_size, num_beams or max_new"):
        jaxprompt.generate(stories, TEXTS[:1], max_new_tokens=7, num_beams=2)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        *((texts, "texts is .*: give a list") for texts in ("abc", b"abc", None, 5, {"text": "a"}, np.array(5))),
        (SimpleNamespace(columns=["text"]), "texts is .*: give a list"),
        *((["a", text], "text 2 is") for text in (None, 5, True, b"b", ["b"], np.zeros((9, 9)))),
        (["a", {"text": "b"}], "text 2 is a row of fields, which need a prompt with a template"),
        (["a", "b\ud83d"], "text 2, .* has half a surrogate pair"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(stories, texts, says):
    for use in (lambda: jaxprompt.generate(stories, texts), lambda: generation.rows_of(texts, ["text"])):
        if "surrogate" in says or "row of fields" in says:
            use = lambda: jaxprompt.generate(stories, texts)  # noqa: E731 (a template has fields, and sees to its own)
        with pytest.raises(InputError, match=says) as error:
            use()
        assert "\n" not in str(error.value)
    assert jaxprompt.generate(stories, np.array([]), max_new_tokens=2) == []


class Renumbered:
    """The tokenizer of stories, but that it begins no text with a token and has one that the model lacks."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [512 if word == "[NEW]" else 400 for word in text.split()]}

    def convert_ids_to_tokens(self, token_id):
        return {512: "[NEW]"}[token_id]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "text 2: an empty text has no token to continue"),
        ("a [NEW] dog", r"text 2: token '\[NEW\]' has the id 512, but the model has 512 embeddings"),
    ],
)
def test_texts_that_the_model_cannot_read_are_refused(stories, text, says):
    backbone = dataclasses.replace(stories, read_tokenizer=lambda: Renumbered(stories.tokenizer))
    with pytest.raises(InputError, match=says):
        jaxprompt.generate(backbone, ["a dog", text], max_new_tokens=2)


def laid_out(template, rows=5, **info):
    prompt = soft_prompt(rows)
    return dataclasses.replace(prompt, info={"template": template, "max_length": 128, **info})


def test_prompts_that_are_none_are_refused(stories):
    broken = soft_prompt()
    broken.soft[2, 3] = np.nan
    fewer = laid_out("{soft:5}{text}{target}", rows=3)
    for prompt, says in ((broken.soft, "prompt is a ndarray"), (broken, "not finite"), (fewer, "3 soft rows, .* 5")):
        with pytest.raises(InputError, match=says):
            jaxprompt.generate(stories, ["a"], prompt)
    with pytest.raises(InputError, match="row 2: field 'text' has half a surrogate pair"):
        jaxprompt.generate(stories, [{"text": "a"}, {"text": "b\ud83d"}], laid_out("{soft:5}{text}{target}"))


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "says"), [("float16", "overflows float16: set dtype to bfloat16"), ("float32", None)]
)
def test_a_model_that_overflows_is_named_for_it(num_beams, dtype, says):
    backbone = jaxprompt.load_backbone(GOLDEN / "stories260K", dtype=dtype)
    grown = jax.tree.map_with_path(lambda path, x: 2e4 * x if "mlp" in str(path) else x, backbone.params)
    backbone = dataclasses.replace(backbone, params=grown)
    if says is None:
        assert jaxprompt.generate(backbone, TEXTS[:2], max_new_tokens=3, num_beams=num_beams)
    else:
        with pytest.raises(InputError, match=f"text 1 .*{says}"):
            jaxprompt.generate(backbone, TEXTS[:2], max_new_tokens=3, num_beams=num_beams)


def test_the_text_whose_values_are_not_finite_is_named(stories, monkeypatch):
    scores = iter(([0.0, -1.0], [-2.0, np.nan]))
    monkeypatch.setattr(writing, "decode", lambda *_, **__: (np.zeros((2, 3), int), np.array(next(scores))))
    # The shorter ones come first: the second of the second batch is the longest.
    with pytest.raises(InputError, match=r"the scores of text 1 are not finite: .* the prompt"):
        jaxprompt.generate(stories, ["a a a a a", "a", "a a a", "a a"], batch_size=2, max_new_tokens=3)


TEMPLATE = "{soft:5}A story about {text}.{target}"


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_text_does_not_depend_on_its_batch(stories, num_beams, template):
    texts = ["a dog", "the little girl who went to the park every day to play with her big red ball and a friend", "x"]
    prompt = None if template is None else laid_out(template)
    options = {"max_new_tokens": 10, "num_beams": num_beams}
    together = jaxprompt.generate(stories, texts, prompt, **options)
    assert jaxprompt.generate(stories, texts[::-1], prompt, batch_size=2, **options) == together[::-1]
    assert jaxprompt.generate(stories, texts[:1], prompt, **options) == together[:1]


@pytest.mark.parametrize("forced", [None, 7])
def test_what_a_decoder_must_begin_with_is_its_first_new_token(seq2seq, forced):
    backbone = dataclasses.replace(seq2seq, forced_bos_id=forced)
    # The tokenizer puts its first special token in front of every text.
    begin = seq2seq.tokenizer.bos_token_id if forced is None else forced
    source, ids = seq2seq.tokenizer("the dog")["input_ids"], [2, begin]
    for _ in range(4):
        padded = ids + [0] * (6 - len(ids))
        ids.append(int(backbone.logits([source], decoder_input_ids=[padded])[0, len(ids) - 1].argmax()))
    decode = seq2seq.tokenizer.decode
    want = decode([2, *ids[1:]], skip_special_tokens=True)[len(decode([2, begin], skip_special_tokens=True)) :]
    template = Prompt(info={"template": "{text}{target}", "max_length": 64})
    # A template always has the tokenizer's own token there.
    for prompt in (None, template) if forced is None else (None,):
        assert jaxprompt.generate(backbone, ["the dog"], prompt, max_new_tokens=5) == [want]


def test_no_temperature_and_no_mass_is_out_of_range():
    logits, key = jnp.log(jnp.array([[0.1, 0.5, 0.4]])), jax.random.key(0)
    assert [int(sample(logits, key, *how)[0]) for how in ((1e-300, None, None), (1.0, None, 1e-300))] == [1, 1]
    drawn = jax.vmap(lambda key: sample(logits, key, 1e300, None, None)[0])(jax.random.split(key, 50))
    assert set(drawn.tolist()) == {0, 1, 2}
