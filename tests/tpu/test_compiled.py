"""What a TPU's compiler makes of every architecture's programs; nothing runs. Needs libtpu: `pip install -e ".[tpu]"`."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
import tokenizers
from jax.sharding import AxisType
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import jaxprompt
from jaxprompt.backbone import load_backbone
from jaxprompt.experiment.build import build
from jaxprompt.machine.sharding import MESH_AXES, replicated
from jaxprompt.scoring.decode import Search, _decode, _Model
from jaxprompt.training.optim import make_optimizer
from jaxprompt.training.step import init_state, make_train_step
from jaxprompt.types import Batch, Inputs
from tests.conftest import ARCHITECTURES, GOLDEN

pytest.importorskip("libtpu")
from jaxprompt.machine.targets import devices_of

pytestmark = pytest.mark.slow

# Rows of several segments, long enough for the kernels.
ROWS, SEQ, TARGETS, SLOTS = 2, 96, 6, 2
# What no program for an accelerator may hold: sizes known late, numbers of 64 bits, calls to the host.
FORBIDDEN = re.compile(r"\[<=|\bf64\[|\bc128\[|xla_python|host_compute|infeed|outfeed|SendToHost|RecvFromHost")


@pytest.fixture(scope="module")
def mesh():
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)  # programs for absent chips cannot be loaded again
    with devices_of("v5e", None, 1) as devices:
        yield jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    jax.config.update("jax_enable_compilation_cache", kept)


@pytest.fixture(scope="module")
def tokenizer():
    """Few words, of which every golden model has an embedding; the full stop is what words are read behind."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    words = tokenizers.Tokenizer(
        models.WordLevel({w: i for i, w in enumerate((*special, ".", "a", "b"))}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="[SEP]", **roles)


def on_chip(tree, mesh):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), tree)


def backbone_for(folder, tokenizer, **options):
    """A golden model in bfloat16."""
    own = jax.default_backend
    jax.default_backend = lambda: "cpu"  # the weights are read here
    try:
        backbone = load_backbone(GOLDEN / folder, dtype="bfloat16", **options)
    finally:
        jax.default_backend = own
    return dataclasses.replace(backbone, read_tokenizer=lambda: tokenizer)


def moved(backbone, mesh):
    """The same, its weights shapes on the chip."""
    module = dataclasses.replace(backbone.module, mesh=mesh, attention="pallas")
    return dataclasses.replace(backbone, module=module, mesh=mesh, params=on_chip(backbone.params, mesh))


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
    experiment = dataclasses.replace(experiment, backbone=moved(backbone, mesh))
    frozen = {"params": experiment.backbone.params, "objective": None, "hard_prefix": None}
    step = make_train_step(experiment.forward(()), experiment.method, optimizer, frozen)
    state = jax.eval_shape(lambda trainable: init_state(trainable, optimizer), shapes)
    arguments = on_chip((state, batch_for(backbone)), mesh)
    return step.jitted.lower(frozen, *arguments).compile(), arguments[0]


def check(program) -> str:
    text = program.as_text()
    assert not FORBIDDEN.search(text), FORBIDDEN.search(text)
    return text


UNIFORM = {"init": {"type": "uniform"}}


@pytest.mark.parametrize("folder", sorted(ARCHITECTURES.values()))
def test_a_train_step_of_every_architecture(mesh, folder, tokenizer):
    backbone = backbone_for(folder, tokenizer)
    generates = backbone.causal or backbone.seq2seq
    method = {"name": "soft", **UNIFORM}
    program, state = compiled_step(mesh, backbone, method, "generation" if generates else "classifier")
    text = check(program)
    # The kernels are there; what a step changes is changed in place.
    assert "tpu_custom_call" in text
    aliased = re.search(r"input_output_alias=\{(.*?)\}, entry", text.splitlines()[0]).group(1)
    learned = [leaf for leaf in jax.tree.leaves(state) if leaf.size > 1]
    assert len(learned) >= 3 and aliased.count("may-alias") + aliased.count("must-alias") >= len(learned)


@pytest.mark.parametrize(
    ("folder", "method", "objective", "quantize"),
    [
        ("stories260K", {"name": "prefix", "length": 4}, "verbalizer", None),
        ("stories260K", {"name": "low_rank", "rank": 2}, "classifier", "int8"),
        ("gemma2", {"name": "prefix", "length": 4}, "generation", None),
        ("bert-pretraining", {"name": "prefix", "length": 4}, "verbalizer", None),
        ("t5", {"name": "prefix", "length": 4, **UNIFORM}, "verbalizer", None),
    ],
)
def test_a_train_step_of_every_kind(mesh, tokenizer, folder, method, objective, quantize):
    backbone = backbone_for(folder, tokenizer, quantize=quantize)
    program, _ = compiled_step(mesh, backbone, method, objective)
    assert "tpu_custom_call" in check(program)


@pytest.mark.parametrize("folder", ["stories260K", "gpt2", "t5"])
def test_text_generation(mesh, tokenizer, folder):
    """The prompt's pass, and the loop of single tokens behind it."""
    backbone = moved(backbone_for(folder, tokenizer), mesh)
    search = Search(max_new_tokens=8, eos=(2,))
    rows = jax.ShapeDtypeStruct((ROWS, SEQ), jnp.int32)
    lengths = jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    soft = jax.ShapeDtypeStruct((4, backbone.soft_size), jnp.float32)
    source = inputs() if backbone.seq2seq else None
    key = jax.eval_shape(lambda: jax.random.key(0))
    # first, read and owners: nothing is shared, marked or owned.
    arrays = on_chip((backbone.params, rows, lengths, soft, None, source, None, None, None, None, key), mesh)
    check(_decode.lower(_Model(backbone), search, *arrays).compile())
