"""What a TPU's compiler makes of every architecture's programs; nothing runs. Needs libtpu: `pip install -e ".[tpu]"`."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

import jaxprompt
from jaxprompt.backbone import load_backbone
from jaxprompt.experiment.build import build
from jaxprompt.machine.sharding import MESH_AXES, replicated
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step
from jaxprompt.types import Batch, Inputs
from tests.conftest import GOLDEN

pytest.importorskip("libtpu")
from targets import devices_of

FOLDERS = sorted(path.name for path in GOLDEN.iterdir() if (path / "config.json").exists())
# Rows of several segments, long enough for the kernels.
ROWS, SEQ, TARGETS, SLOTS = 2, 96, 6, 2
# What no program for an accelerator may hold: numbers of 64 bits, calls to the host.
FORBIDDEN = re.compile(r"\bf64\[|\bc128\[|xla_python|host_compute|infeed|outfeed|SendToHost|RecvFromHost")


@pytest.fixture(scope="module")
def mesh():
    with devices_of("v5e", None, 1) as devices:
        yield jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def on_chip(tree, mesh):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), tree)


def backbone_for(mesh, folder, tokenizer, **options):
    """A golden model in bfloat16, its weights shapes on the chip."""
    own = jax.default_backend
    jax.default_backend = lambda: "cpu"  # the weights are read here
    try:
        backbone = load_backbone(GOLDEN / folder, dtype="bfloat16", **options)
    finally:
        jax.default_backend = own
    module = dataclasses.replace(backbone.module, mesh=mesh, attention="pallas")
    return dataclasses.replace(
        backbone, module=module, mesh=mesh, params=on_chip(backbone.params, mesh), read_tokenizer=lambda: tokenizer
    )


def inputs():
    shape = jax.ShapeDtypeStruct((ROWS, SEQ), jnp.int32)
    return Inputs(shape, shape, shape)


def batch_for(backbone):
    whole, part = jnp.int32, jnp.float32
    shapes = {
        name: jax.ShapeDtypeStruct((ROWS, TARGETS), whole) for name in ("target_at", "target_ids", "target_group")
    }
    slots = jax.ShapeDtypeStruct((ROWS, SLOTS), whole)
    return Batch(
        inputs(),
        **shapes,
        target_weight=jax.ShapeDtypeStruct((ROWS, TARGETS), part),
        pool_at=slots,
        answers={"label": slots},
        index=slots,
        source=inputs() if backbone.seq2seq else None,
    )


def compiled_step(mesh, backbone, method, objective):
    template = {"verbalizer": "{text} {mask}" if not (backbone.causal or backbone.seq2seq) else "{text} {target}"}
    text = template.get(objective, "{text}" if objective == "classifier" else "{text} {target}")
    tree = {
        "model": "golden",
        "template": text if method["name"] == "prefix" else "{soft:3} " + text,
        "method": method,
        "objective": {"type": objective} | ({} if objective == "generation" else {"labels": ["a", "b"]}),
        "data": {"train": [{"text": "a", "label": "a", "target": "a"}]},
    }
    experiment = build(jaxprompt.load_config(tree), backbone)
    shapes = jax.eval_shape(experiment.init_trainable)
    optimizer = make_optimizer(experiment.config.optimizer, 10, shapes)
    frozen = {"params": backbone.params, "objective": None, "hard_prefix": None}
    step = make_train_step(experiment.forward(()), experiment.method, optimizer, frozen)
    state = jax.eval_shape(lambda trainable: init_state(trainable, optimizer), shapes)
    arguments = on_chip((state, batch_for(backbone)), mesh)
    return step.jitted.lower(frozen, *arguments).compile(), arguments[0]


def check(program, backbone):
    text = program.as_text()
    assert not FORBIDDEN.search(text), FORBIDDEN.search(text)
    # A gradient of a weight, or a copy of the weights, would be temporary memory of their size.
    return text


@pytest.mark.parametrize("folder", FOLDERS)
def test_train_step(mesh, folder, stories):
    backbone = backbone_for(mesh, folder, stories.tokenizer)
    causal = backbone.causal or backbone.seq2seq
    program, state = compiled_step(
        mesh, backbone, {"name": "soft", "init": {"type": "uniform"}}, "generation" if causal else "classifier"
    )
    text = check(program, backbone)
    # The kernel is there wherever the model attends; what a step changes is changed in place.
    assert "tpu_custom_call" in text
    aliased = re.search(r"input_output_alias=\{(.*?)\}, entry", text.splitlines()[0])
    assert aliased and aliased.group(1).count("may-alias") + aliased.group(1).count("must-alias") >= len(
        [leaf for leaf in jax.tree.leaves(state) if leaf.size > 1]
    )
