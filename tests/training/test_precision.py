"""Float32 means float32: a TPU multiplies it in one pass of bfloat16, and a GPU in TF32, unless a program says so."""

import re

import jax
import pytest

import jaxprompt
from jaxprompt.backbone import padded, random_backbone
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step
from tests.conftest import STORIES

ROWS = [{"text": "a warm film", "label": "good"}, {"text": "dull", "label": "bad"}]
PRODUCT = re.compile(r"stablehlo\.dot_general.*?: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\)")


def products(backbone, method, objective):
    """The lines of a train step's products, and whether both operands are float32."""
    soft = "{soft:3} " if method["name"] != "prefix" else ""
    target = "" if objective == "classifier" else " {target}"
    rows = [row | {"target": row["label"]} for row in ROWS]
    tree = {"model": STORIES, "template": f"{soft}{{text}}{target}", "method": method, "objective": {"type": objective}}
    config = jaxprompt.load_config(tree | {"data": {"train": rows}, "train": {"batch_size": 2}})
    experiment = build(config, backbone)
    data, trainable = TrainingData.load(experiment), experiment.init_trainable()
    optimizer = make_optimizer(config.optimizer, 1, trainable)
    step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer)
    batch = next(data.train_batches(0))
    text = step.jitted.lower(step.frozen, init_state(trainable, optimizer), batch).as_text()
    return [(line, set(found.groups()) == {"f32"}) for line in text.splitlines() if (found := PRODUCT.search(line))]


@pytest.mark.parametrize(
    ("method", "objective"), [("soft", "verbalizer"), ("prefix", "classifier"), ("low_rank", "classifier")]
)
def test_every_product_of_float32_is_one(stories, method, objective):
    options = {"rank": 2} if method == "low_rank" else {}
    found = products(stories, {"name": method, **options}, objective)
    assert len(found) > 10 and all(wide for _, wide in found)
    assert all("HIGHEST" in line for line, _ in found)


def test_a_narrow_model_keeps_its_own_head_exact(stories):
    backbone = jaxprompt.load_backbone(STORIES, dtype="bfloat16")
    wide = [line for line, wide in products(backbone, {"name": "low_rank", "rank": 2}, "classifier") if wide]
    assert len(wide) >= 3 and all("HIGHEST" in line for line in wide)


def test_layers_may_be_less_and_the_head_not(stories):
    backbone = random_backbone(stories.config, tokenizer=stories.tokenizer, matmul_precision="default")
    found = [line for line, _ in products(backbone, {"name": "soft"}, "verbalizer")]
    exact = [line for line in found if "HIGHEST" in line]
    assert 0 < len(exact) <= 4 and len(exact) < len(found)
    with jax.default_matmul_precision("high"):  # the program's own choice is not what surrounds it
        again = [line for line, _ in products(backbone, {"name": "soft"}, "verbalizer")]
    assert sum("HIGHEST" in line for line in again) == len(exact)
    with pytest.raises(jaxprompt.InputError, match="unknown matmul_precision 'hihg'"):
        random_backbone(stories.config, matmul_precision="hihg")


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_products_of_narrow_weights_are_as_exact_backward_too(stories, quantize):
    backbone = random_backbone(stories.config, tokenizer=stories.tokenizer, quantize=quantize)
    found = products(backbone, {"name": "soft"}, "generation")
    assert len(found) > 20 and all("HIGHEST" in line for line, _ in found)


def test_the_backbones_own_calls_are_as_exact(stories):
    """And a call is not taken for that of a model of another precision."""

    def lines(backbone, with_head):
        ids = jax.ShapeDtypeStruct((1, 4), "int32")
        lowered = padded._forward.lower(backbone.module, with_head, backbone.params, ids, ids, None, None)
        return [line for line in lowered.as_text().splitlines() if PRODUCT.search(line)]

    fast = random_backbone(stories.config, matmul_precision="default")
    assert len(lines(stories, True)) > 5 and all("HIGHEST" in line for line in lines(stories, True))
    assert not any("HIGHEST" in line for line in lines(fast, False))
    assert sum("HIGHEST" in line for line in lines(fast, True)) == 1
