"""Backbones from Hugging Face files, or of a published shape with random weights."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from jaxprompt.backbone.backbone import Backbone
from jaxprompt.backbone.form import described
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.machine.background import Background
from jaxprompt.machine.sharding import make_mesh
from jaxprompt.models import ModelConfig, Seq2SeqConfig, build
from jaxprompt.models.families.base import shown
from jaxprompt.models.presets import preset
from jaxprompt.models.quantized import check_quantize
from jaxprompt.models.stack import unstack, unstacked_shapes
from jaxprompt.weights.files import fingerprint
from jaxprompt.weights.loader import find_params
from jaxprompt.weights.planned import planned_params
from jaxprompt.weights.random import random_params
from jaxprompt.weights.reference import resolve
from jaxprompt.weights.source import open_source
from jaxprompt.weights.tokenizer import byte_tokenizer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def load_backbone(
    ref: str | Path,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    remat: str = "dots",
    quantize: str | None = None,
    attention: str = "auto",
    unroll: bool | None = None,
    matmul_precision: str = "highest",
    background: Background | None = None,
) -> Backbone:
    """Loads a frozen model from Hugging Face or GGUF files, or makes one of a published shape with random weights.

    Args:
      ref: a folder or a GGUF file, a hub id `org/name`, or `package:module/path` (see
        `jaxprompt.weights.reference.resolve`); or `random:NAME`, a shape of `jaxprompt.models.presets` with random weights and a tokenizer of bytes.
      dtype: of weights and activations: "float32"; "bfloat16" or "float16" for half the memory.
      mesh: from `jaxprompt.machine.sharding.make_mesh`; default: all devices, each with the whole model.
      remat: what the backward pass recomputes: "none", "dots" (all but the weight matmuls) or "full". Use "full" when
        activations do not fit; "none" needs much more memory and is slower on a CPU, where memory is what limits.
      quantize: "int8" or "int4" keeps the matrices of attention and MLP in 8 or about 4.5 bits per weight, when the
        model does not fit otherwise. Embeddings, head, norms and biases stay in `dtype`, and so do activations. Int8
        hardly changes a prompt's gradient (mean cosine 0.996 to 0.999 on two small models); int4 does (0.72 to 0.95).
      attention: how it is computed: "xla", on any device; "cudnn", by cuDNN's flash attention on an NVIDIA GPU, in
        bfloat16 or float16; "pallas", by flash attention of our own on a TPU. The memory of the last two does not grow
        with the square of the row. "auto" is the one for this machine, or XLA where that has none for such a model.
      unroll: gives every layer weights and code of its own, where they are else one stack and one loop, which copies
        weights out of the stack and what it keeps into another. Faster, above all text generation; 1.2 to 3
        times as long to compile, and on a CPU a train step takes more memory. None: a loop.
      matmul_precision: of products of float32, which a GPU and a TPU compute in fewer bits unless told: "highest" is
        float32 as on a CPU; "high" and "default" are faster, for the layers; embeddings, heads and losses stay exact.
      background: where the weights are read while the caller goes on: of the backbone there are only the shapes until
        `Backbone.loaded`, and what config.json and the weights' names and shapes tell is checked. Default: they are
        waited for.

    Raises:
      InputError: a missing model, a feature or family that is not supported, or files that do not fit the config.
    """
    mesh = make_mesh() if mesh is None else mesh
    how = dtype, mesh, remat, quantize, attention, unroll, matmul_precision
    if background is None:
        with Background() as background:
            return load_backbone(ref, *how, background).loaded()
    if isinstance(ref, str) and ref.startswith("random:"):
        family, config = preset(ref.removeprefix("random:"))
        tokenizer = functools.partial(byte_tokenizer, family.name)
        return _random(background, ref, family.name, config, 0, tokenizer, *how)
    kind, quantize = _dtype(dtype), check_quantize(quantize)
    source = open_source(resolve(ref))
    config_json, family, config, files, names = described(source)
    generation = source.generation
    if generation is source.config:
        generation = {"forced_eos_token_id": family.forced_eos_id, **generation}
    eos_ids, forced_bos_id, forced_eos_id = _special_ids(generation, source.generation_file, config_json, config)
    module = build(config, kind, remat, mesh, attention, matmul_precision)
    stored = find_params(files, names, family, module, mesh, quantize)

    def read():
        params = stored.read(background.stopped)
        return unstack(params) if unroll else params, fingerprint(files, config, stored.used)

    (reading,) = background.begin(read)
    backbone = Backbone(
        ref=str(ref),
        family=family.name,
        config=config,
        module=module,
        params=_shapes(stored.planned, unroll),
        mesh=mesh,
        fingerprint="",
        dtype=kind,
        read_tokenizer=source.tokenizer,
        eos_ids=eos_ids,
        forced_bos_id=forced_bos_id,
        forced_eos_id=forced_eos_id,
        reading=reading,
    )
    return _in_order(backbone) if unroll else backbone


def random_backbone(
    config: ModelConfig,
    seed: int = 0,
    tokenizer: Any = None,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    remat: str = "dots",
    quantize: str | None = None,
    attention: str = "auto",
    unroll: bool | None = None,
    matmul_precision: str = "highest",
) -> Backbone:
    """Returns a backbone with random weights, for tests and throughput measurements; arguments as `load_backbone`."""
    name, read = f"random:{seed}", lambda: tokenizer
    mesh = make_mesh() if mesh is None else mesh
    how = dtype, mesh, remat, quantize, attention, unroll, matmul_precision
    with Background() as background:
        return _random(background, name, "random", config, seed, read, *how).loaded()


def _random(
    background, ref, family, config, seed, tokenizer, dtype, mesh, remat, quantize, attention, unroll, precision
) -> Backbone:
    module = build(config, _dtype(dtype), remat, mesh, attention, precision)
    quantize = check_quantize(quantize)
    identity = hashlib.sha256(f"{config!r} {seed}".encode()).hexdigest()[:16]

    def read():
        params = random_params(module, seed, quantize, background.stopped)
        return unstack(params) if unroll else params, identity

    (reading,) = background.begin(read)
    backbone = Backbone(
        ref=ref,
        family=family,
        config=config,
        module=module,
        params=_shapes(planned_params(module, mesh, quantize), unroll),
        mesh=mesh,
        fingerprint="",
        dtype=module.dtype,
        read_tokenizer=tokenizer,
        reading=reading,
    )
    return _in_order(backbone)


def _in_order(backbone: Backbone) -> Backbone:
    """Waits for weights that are made by programs: several processes have to run those of one mesh in one order."""
    return backbone.loaded() if backbone.mesh.is_multi_process else backbone


def _shapes(planned: Mapping[str, Any], unrolled: bool | None) -> Any:
    """The tree that the parameters will be."""
    params = unflatten_dict(planned, sep="/")
    return unstacked_shapes(params) if unrolled else params


def _dtype(name: str) -> Any:
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}{did_you_mean(name, DTYPES)}")
    return DTYPES[name]


def _special_ids(
    generation: Mapping[str, Any], source: Path, config_json: Mapping[str, Any], config: ModelConfig
) -> tuple[tuple[int, ...], int | None, int | None]:
    """Returns what ends a text, and the forced first and last token.

    Raises:
      InputError: one of them, or what an encoder-decoder's texts start with, is no token of the model.
    """
    size = config.vocab_size
    if isinstance(config, Seq2SeqConfig):
        _ids("decoder_start_token_id", config.start_id, source, size)
    if source.name != "config.json" and "eos_token_id" in generation:
        eos_ids = _ids("eos_token_id", generation["eos_token_id"], source, size)
    else:
        # config.json repeats the family's usual one whatever the vocabulary. One that is beyond it ends no text.
        value = config_json.get("eos_token_id")
        eos_ids = tuple(
            i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int) and 0 <= i < size
        )
    first, last = (
        _ids(name, generation.get(name), source, size) for name in ("forced_bos_token_id", "forced_eos_token_id")
    )
    return eos_ids, *(ids[0] if ids else None for ids in (first, last))


def _ids(name: str, value: Any, source: Path, vocab_size: int) -> tuple[int, ...]:
    """Returns the token ids of a setting: of the end of sequence there may be several, of the others one."""
    given = [] if value is None else value if isinstance(value, list) and name == "eos_token_id" else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < vocab_size for i in given):
        raise InputError(
            f"{source}: {name!r} is {shown(value)}, expected a token id below the vocabulary's size of {vocab_size}: "
            "set it to the tokenizer's, or to null for none"
        )
    return tuple(given)
