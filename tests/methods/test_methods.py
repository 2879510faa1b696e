"""Every start of every method: shapes, types, values; and a text prefix against the text itself."""

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
from tests.conftest import STORIES

KEY = jax.random.key(0)
LABELS = ("good", "so bad")
SOFT_TYPES = ["vocab", "labels", "text", "uniform", "normal", "file"]
PREFIX_TYPES = [*SOFT_TYPES, "zero"]


@pytest.fixture(scope="module")
def halved():
    return jaxprompt.load_backbone(STORIES, dtype="bfloat16")


def init_config(kind, **values):
    return Init(type=kind, **{"text": "Once upon a time", "path": "unused", **values})


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
    expected = stories.keys_values(stories.params, np.array(ids))
    np.testing.assert_allclose(found["keys"], expected.keys, atol=1e-5)
    np.testing.assert_allclose(found["values"], expected.values, atol=1e-5)


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
    made = {name: make_method(method.Options(), 3, stories) for name, method in METHODS.items() if name != "low_rank"}
    assert {name: method.name for name, method in made.items()} == {name: name for name in made}
    assert (made["soft"].length, made["prefix"].length) == (3, 16)
    nothing = made["none"].apply(made["none"].init(KEY, Start(stories)))
    assert nothing.soft is None and nothing.prefix is None
