"""What users give to `logits` and `hidden`."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxprompt.backbone import load_backbone
from jaxprompt.errors import InputError
from jaxprompt.prompts import Prompt
from jaxprompt.types import Conditioning, Prefix

GOLDEN = Path(__file__).parents[1] / "golden"
IDS = [[5, 6, 7]]


@pytest.fixture(scope="module", params=["gpt2", "bert-pretraining", "t5"])
def backbone(request):
    return load_backbone(GOLDEN / request.param, remat="none")


def logits(backbone, prompt, ids=IDS):
    return backbone.logits(ids, None, prompt, [[0, 4]] if backbone.seq2seq else None)


def soft(backbone, rows):
    return np.random.default_rng(0).normal(size=(rows, backbone.soft_size)).astype(np.float32)


def learned(array, template):
    return Prompt(Conditioning(soft=array), info={"template": template})


@pytest.mark.parametrize("template", ["{soft:4}{text}", "{soft:3}{soft:1} Review: {text} Is it {target}", None])
def test_soft_rows_that_come_first_are_placed_first(backbone, template):
    array = soft(backbone, 4)
    np.testing.assert_array_equal(logits(backbone, learned(array, template)), logits(backbone, array))


@pytest.mark.parametrize(
    "template",
    [
        *("{text}{soft:4}", "Hard text {soft:4} {text}", "{soft:1} {soft:3}{text}", "{soft:2}{text}{soft:2}"),
        *("{bos}{soft:4}{text}", " {soft:4}{text}", "{text}{soft:4}{target}", "{mask}{soft:4}{text}"),
    ],
)
def test_soft_rows_elsewhere_are_refused(backbone, template):
    array = soft(backbone, 4)
    with pytest.raises(InputError, match=r"soft rows behind other tokens .* follow the template") as error:
        logits(backbone, learned(array, template))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (lambda array: np.where(array == array.max(), np.nan, array), "soft prompt holds numbers that are not finite"),
        (lambda array: jax.numpy.asarray(array) / 0, "soft prompt holds numbers that are not finite"),
        (lambda array: [[1.0], [1.0, 2.0]], "soft prompt is a list: give an array"),
        (lambda array: "soft", "soft prompt is a str: give an array"),
        (lambda array: learned(array, "{soft:9}{text}"), "4 soft rows, its template .* takes 9"),
    ],
)
def test_prompts_of_no_numbers_are_refused(backbone, prompt, says):
    with pytest.raises(InputError, match=says):
        logits(backbone, prompt(soft(backbone, 4)))


def test_prefixes_of_no_numbers_are_refused(backbone):
    layers, heads, width = backbone.prefix_shape
    keys = np.zeros((layers, 2, heads, width), np.float32)
    broken = np.full_like(keys, np.inf)
    for prefix, says in (
        (Prefix(keys, broken, 2), "prefix holds numbers that are not finite"),
        (Prefix(keys, keys[:, :1], 2), "keys and values alike"),
    ):
        with pytest.raises(InputError, match=says):
            logits(backbone, prefix)
    if not backbone.seq2seq:
        both = SimpleNamespace(soft=None, prefix=None, source_prefix=Prefix(keys, keys, 0))
        with pytest.raises(InputError, match="no encoder"):
            logits(backbone, both)


def test_a_prompt_can_be_differentiated(backbone):
    gradient = jax.grad(lambda array: logits(backbone, array).sum())(soft(backbone, 4))
    assert np.abs(gradient).max() > 0


def test_ids_beyond_32_bits_are_not_taken_for_others(backbone):
    with pytest.raises(InputError, match=f"input_ids hold {2**32 + 5}"):
        logits(backbone, None, [[2**32 + 5]])
