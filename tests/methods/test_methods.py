"""Every start of every method: shapes, types, values; and a text prefix against the text itself."""

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.methods import METHODS, Start, make_method
from jaxprompt.methods.prefix import PrefixTuning
from jaxprompt.methods.soft import SoftPrompt
from jaxprompt.methods.starts import Init
from jaxprompt.prompts import Prompt
from jaxprompt.prompts.prompt import from_arrays
from jaxprompt.types import Inputs
from tests.conftest import STORIES, with_biases

KEY = jax.random.key(0)
GOLDEN = Path(__file__).parents[1] / "golden"
LABELS = ("good", "so bad")
SOFT_TYPES = ["vocab", "labels", "text", "uniform", "normal", "file"]
PREFIX_TYPES = [*SOFT_TYPES, "zero"]


@pytest.fixture(scope="module")
def halved():
    return jaxprompt.load_backbone(STORIES, dtype="bfloat16")


def init_config(kind, **values):
    usual = {"text": {"text": "Once upon a time"}, "file": {"path": "unused"}}.get(kind, {})
    if kind != "file" and "text" not in values:
        values.pop("path", None)
    return Init(type=kind, **{**usual, **values})


def soft(length, kind, **values):
    return SoftPrompt(length, init_config(kind, **values))


def prefix(length, kind, encoder=False, **values):
    return PrefixTuning(length, 0 if encoder else length, init_config(kind, **values))


def begin(method, backbone, labels=(), key=KEY):
    """The arrays of the prompt at step 0."""
    return method.init(key, Start(backbone, labels))["prompt"]


def file_of(tmp_path, **shapes):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return arrays, str(jaxprompt.save_prompt(Prompt(from_arrays(arrays, 4)), tmp_path / "p.safetensors"))


@pytest.mark.parametrize("kind", SOFT_TYPES)
def test_every_soft_start_is_fp32_rows(halved, tmp_path, kind):
    arrays, path = file_of(tmp_path, soft=(5, 64))
    found = begin(soft(5, kind, path=path), halved, LABELS)
    assert found.keys() == {"soft"}
    assert (found["soft"].shape, found["soft"].dtype) == ((5, 64), np.float32)
    assert np.isfinite(found["soft"]).all() and np.ptp(np.asarray(found["soft"]), axis=1).min() > 0
    if kind == "file":
        np.testing.assert_array_equal(found["soft"], arrays["soft"])


@pytest.mark.parametrize("kind", PREFIX_TYPES)
def test_every_prefix_start_is_fp32_keys_and_values(halved, tmp_path, kind):
    shape = (5, 4, 4, 8)
    arrays, path = file_of(tmp_path, keys=shape, values=shape)
    found = begin(prefix(4, kind, path=path), halved, LABELS)
    assert found.keys() == {"keys", "values"}
    for name, array in found.items():
        assert (array.shape, array.dtype) == (shape, np.float32)
        assert np.isfinite(array).all()
        assert np.any(array) == ((kind, name) != ("zero", "values"))
        if kind == "file":
            np.testing.assert_array_equal(array, arrays[name])


def test_an_encoders_prefix_starts_from_text_too(minilm):
    found = begin(prefix(3, "text", encoder=True), minilm)
    assert found["keys"].shape == found["values"].shape == (6, 3, 12, 32)


def test_a_text_prefix_is_the_text(stories):
    ids = stories.tokenizer("Once upon a time, there was a", add_special_tokens=False)["input_ids"]
    # Longer than the text, so that it repeats.
    method = prefix(len(ids) + 3, "text", text="Once upon a time, there was a")
    following = stories.tokenizer("little dog named Max", add_special_tokens=False)["input_ids"]
    learned = method.apply(method.init(KEY, Start(stories))).prefix
    whole = np.asarray(stories.logits([ids + ids[:3] + following]))[0, method.length :]
    np.testing.assert_allclose(stories.logits([following], prompt=learned)[0], whole, atol=2e-4)
    assert np.abs(np.asarray(stories.logits([following])[0]) - whole).max() > 0.1


def test_a_label_prefix_starts_from_the_labels_in_turn(stories):
    ids = stories.tokenizer("good, so bad", add_special_tokens=False)["input_ids"]
    found = begin(prefix(len(ids), "labels"), stories, LABELS)
    expected, _ = stories.keys_values(stories.params, np.array(ids))
    np.testing.assert_allclose(found["keys"], expected.keys, atol=1e-5)
    np.testing.assert_allclose(found["values"], expected.values, atol=1e-5)


def test_the_prefixes_of_an_encoder_decoder_are_of_the_text_that_both_sides_read():
    for name in ("t5", "bart"):
        backbone = jaxprompt.load_backbone(GOLDEN / name)
        text, following = np.array([5, 9, 3, 11]), np.array([7, 4, 12])

        def row(ids, first=0):
            ids = np.asarray(ids)[None]
            return Inputs(ids, first + np.arange(ids.shape[1])[None], np.ones_like(ids))

        prefix, source_prefix = backbone.keys_values(backbone.params, text)
        memory = backbone.read(backbone.params, row(text))
        whole = backbone.apply(backbone.params, row([*text, *following]), memory=memory)
        behind = backbone.apply(backbone.params, row(following, len(text)), prefix=prefix, memory=memory)
        np.testing.assert_allclose(behind, whole[:, len(text) :], atol=1e-5)
        if name == "bart":
            # Beside itself, without relative distances, a text reads as it does alone.
            beside = backbone.read(backbone.params, row(text), prefix=source_prefix)
            np.testing.assert_allclose(beside.keys, memory.keys, atol=1e-5)
        assert source_prefix.length == 0 and source_prefix.keys.shape[1] == len(text)


def test_stretches_of_a_long_text_are_spread_over_it(stories, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(" ".join(f"word {number}" for number in range(200)))
    ids = np.array(stories.tokenizer(path.read_text(), add_special_tokens=False)["input_ids"])
    table = np.asarray(stories.word_embedding(stories.params))
    rows = begin(soft(10, "text", text=None, path=str(path), chunks=3), stories)["soft"]
    places = []
    for size, stretch in zip((3, 4, 3), np.split(np.asarray(rows), [3, 7]), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(ids, size)
        fits = [at for at, window in enumerate(windows) if (table[window] == stretch).all()]
        assert fits
        places.append(fits)
    # One in each third.
    thirds = [range(round(len(ids) * i / 3), round(len(ids) * (i + 1) / 3)) for i in range(3)]
    assert all(any(at in third for at in fits) for fits, third in zip(places, thirds, strict=True))
    whole = begin(soft(10, "text", text=None, path=str(path)), stories)["soft"]
    np.testing.assert_array_equal(whole, table[ids[:10]])
    with pytest.raises(InputError, match=r"^method\.init\.path 'none' cannot be read: No such file"):
        begin(soft(10, "text", text=None, path="none"), stories)
    with pytest.raises(ValueError, match="and not both"):
        Init(type="text", text="a", path="b")


def test_the_text_starts_behind_a_decoders_prefix_and_beside_an_encoders(stories):
    trainable = {"prompt": {name: np.zeros((5, 4, 4, 8), np.float32) for name in ("keys", "values")}}
    assert prefix(4, "zero").apply(trainable).prefix.length == 4
    assert prefix(4, "zero", encoder=True).apply(trainable).prefix.length == 0


@pytest.mark.parametrize("make", [soft, prefix])
@pytest.mark.parametrize("kind", ["uniform", "normal", "vocab"])
def test_the_key_decides_the_start(stories, make, kind):
    method = make(4, kind)
    first, again, other = (begin(method, stories, key=jax.random.key(seed)) for seed in (0, 0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_scales(stories):
    assert np.abs(begin(soft(50, "uniform"), stories)["soft"]).max() == pytest.approx(0.5, rel=0.01)
    table = np.asarray(stories.word_embedding(stories.params))
    assert begin(soft(50, "normal"), stories)["soft"].std() == pytest.approx(table.std(), rel=0.1)
    assert begin(soft(50, "normal", scale=2.0), stories)["soft"].std() == pytest.approx(2.0, rel=0.1)
    assert begin(prefix(50, "normal"), stories)["keys"].std() == pytest.approx(0.02, rel=0.1)
    assert np.abs(begin(prefix(50, "uniform", scale=0.1), stories)["values"]).max() <= 0.1


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (soft(2, "zero"), "is for prefix tuning"),
        (soft(2, "labels"), "objective.labels"),
        (prefix(2, "labels"), "objective.labels"),
        (PrefixTuning(2, 2, Init.model_construct(type="text", text="")), "has no tokens"),
    ],
)
def test_starts_that_cannot_be_are_refused(stories, method, says):
    with pytest.raises(InputError, match=says):
        begin(method, stories)


def test_files_that_do_not_fit_are_refused(stories, tmp_path):
    _, path = file_of(tmp_path, soft=(5, 32))
    with pytest.raises(InputError, match=r"soft has shape \(5, 32\), this experiment needs \(5, 64\)"):
        begin(soft(5, "file", path=path), stories)
    with pytest.raises(InputError, match="holds soft, not 'keys'"):
        begin(prefix(5, "file", path=path), stories)
    np.save(tmp_path / "nan.npy", np.full((2, 64), np.nan, np.float32))
    with pytest.raises(InputError, match="not finite"):
        begin(soft(2, "file", path=str(tmp_path / "nan.npy")), stories)


def test_the_config_names_the_method(stories):
    special = {"low_rank": {"rank": 2}, "together": {"parts": [{"name": "soft"}, {"name": "lora"}]}}
    special["attempt"] = {"sources": [{"type": "text", "text": "good"}]}
    options = {name: method.Options(**special.get(name, {})) for name, method in METHODS.items()}
    made = {name: make_method(given, 3, with_biases(stories)) for name, given in options.items()}
    assert {name: method.name for name, method in made.items()} == {name: name for name in made}
    assert (made["soft"].length, made["prefix"].length) == (3, 16)
    nothing = made["none"].apply(made["none"].init(KEY, Start(stories)))
    assert nothing.soft is None and nothing.prefix is None
