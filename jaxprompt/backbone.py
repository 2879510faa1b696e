"""The frozen pretrained model: what methods, the train step and users call."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt import padded
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.models import Cache, Memory, ModelConfig, Seq2SeqConfig, build
from jaxprompt.models.families import family_of
from jaxprompt.models.families.base import token_id
from jaxprompt.models.presets import preset
from jaxprompt.models.quantize import check_quantize
from jaxprompt.models.stack import unstack
from jaxprompt.sharding import make_mesh
from jaxprompt.types import Inputs, Prefix
from jaxprompt.weights.checkpoint import fingerprint, open_checkpoint, read_json
from jaxprompt.weights.loader import canonical_names, load_params
from jaxprompt.weights.random import random_params
from jaxprompt.weights.reference import resolve
from jaxprompt.weights.tokenizer import byte_tokenizer, read_tokenizer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen model with its parameters and tokenizer.

    The methods that take `params` are pure and meant for use under `jax.jit`: pass `backbone.params` in as an
    argument of the jitted function, because XLA bakes captured arrays into the program. `logits` and `hidden` are
    for users and are jitted already. In the shapes below R is rows, S positions of a row, P prompt length, D hidden
    size, V vocabulary, L layers, K kv heads, H head dim, T cache length.

    Attributes:
      ref: what the model was asked for as.
      family: Hugging Face's `model_type`.
      module: the linen module; hashable, so it may be a static argument.
      params: nested dict of arrays in the type `dtype`; those of the layers stacked, or see `models.stack.unstack`.
      mesh: where the parameters lie.
      fingerprint: 16 hex digits that identify the model, whatever dtype and mesh it was loaded to.
      read_tokenizer: called once, when `tokenizer` is first used.
      eos_ids: what ends a generated text, beside the tokenizer's end of sequence.
      forced_bos_id, forced_eos_id: what a written text must begin with, and end with where it is cut off at its length
        (BART); None: anything.
    """

    ref: str
    family: str
    config: ModelConfig
    module: nn.Module
    params: Any
    mesh: Mesh
    fingerprint: str
    dtype: Any
    read_tokenizer: Callable[[], Any]
    eos_ids: tuple[int, ...] = ()
    forced_bos_id: int | None = None
    forced_eos_id: int | None = None

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer; raises InputError if the model came without one."""
        return self.read_tokenizer()

    @property
    def causal(self) -> bool:
        """Whether it is a decoder alone: tokens see only what is before them."""
        return self.module.causal

    @property
    def seq2seq(self) -> bool:
        """Whether it is an encoder-decoder. Then layers, heads and cache are the decoder's."""
        return isinstance(self.config, Seq2SeqConfig)

    @property
    def unrolled(self) -> bool:
        """Whether every layer has weights of its own, see `load_backbone`."""
        return "0" in (self.params["decoder"] if self.seq2seq else self.params)["layers"]

    @property
    def vocab_size(self) -> int:
        """Rows of the word embedding; ids from here on are soft tokens."""
        return self.config.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width D of the hidden states that the model returns."""
        return self.config.output_size

    @property
    def soft_size(self) -> int:
        """Width of a soft prompt's rows; D but in the few models whose embedding has another width."""
        return self.config.soft_size

    @property
    def num_layers(self) -> int:
        return self.config.num_layers

    @property
    def num_kv_heads(self) -> int:
        return self.config.num_kv_heads

    @property
    def head_dim(self) -> int:
        return self.config.head_dim

    @property
    def prefix_shape(self) -> tuple[int, int, int]:
        """Layers, kv heads and head dim of a learned prefix."""
        return self.num_layers, self.num_kv_heads, self.head_dim

    @property
    def source_prefix_shape(self) -> tuple[int, int, int] | None:
        """The same for the encoder of an encoder-decoder; None for other models."""
        if not self.seq2seq:
            return None
        encoder = self.config.encoder
        return encoder.num_layers, encoder.num_kv_heads, encoder.head_dim

    @property
    def max_positions(self) -> int:
        """Longest input, prompt included."""
        return self.config.max_positions

    @property
    def has_head(self) -> bool:
        """Whether `head` works."""
        return self.config.head != "none"

    def word_embedding(self, params: Any) -> Float[Array, "vocab embed"]:
        """Returns the table of what the words enter the model as, so that its rows can start a soft prompt."""
        table, scale = params["word"]["weight"], getattr(self.config, "embed_scale", 1.0)
        return table if scale == 1.0 else table * jnp.asarray(scale, table.dtype)

    def embed(self, params: Any, ids: Int[Array, "rows seq"], soft=None) -> Float[Array, "rows seq embed"]:
        """Returns word embeddings, and `soft [P, D]`'s rows for ids `>= vocab_size`; no positions."""
        return self.module.apply({"params": params}, ids, soft, method="embed")

    def prefill(self, params: Any, ids: Int[Array, " prompt"], *, soft=None, prefix: Prefix | None = None) -> Prefix:
        """Returns the keys and values of one sequence, behind those of `prefix`, all of which it sees.

        Its positions start at `prefix.length`. Raises InputError unless the backbone is causal.
        """
        if not self.causal:
            raise InputError(f"model_type {self.family} is not causal: its prompt cannot be computed ahead of the text")
        return self.module.apply({"params": params}, ids, soft, prefix, method="prefill")

    def keys_values(self, params: Any, ids: Int[Array, " text"]) -> Prefix:
        """Returns every layer's keys and values of one text, for a prefix to start from; an encoder's has length 0.

        Raises InputError for an encoder-decoder.
        """
        if self.seq2seq:
            raise InputError(
                f"model_type {self.family} is an encoder-decoder: its prefix cannot start from text; set "
                "method.init.type to zero"
            )
        return self.module.apply({"params": params}, ids, method="prefill" if self.causal else "keys_values")

    def read(self, params: Any, source: Inputs, *, soft=None, prefix: Prefix | None = None) -> Memory:
        """Runs the encoder of an encoder-decoder over packed rows; returns what its decoder reads of them."""
        return self.module.apply({"params": params}, source, soft, prefix, method="read")

    def apply(
        self,
        params: Any,
        inputs: Inputs,
        *,
        soft=None,
        prefix: Prefix | None = None,
        cache: Cache | None = None,
        memory: Memory | None = None,
        at: Int[Array, "rows n"] | None = None,
        prompt: Int[Array, " prompt"] | None = None,
    ):
        """Returns hidden states `[R, S, D]` after the final norm; with `cache`, (hidden states, advanced cache).

        With `at`, only the hidden states `[R, N, D]` of those positions, for which the last layer does less.

        With `prompt`, every row sees that sequence behind the prefix: as `prefix=prefill(prompt, prefix=prefix)`, but
        that both are computed together. Causal backbones only; positions of the rows count it.

        With a cache, the S tokens of row r go to its slots `index[r]` to `index[r] + S - 1` and see every slot up to
        their own, and the prefix. Real tokens come first in a row; tokens of segment 0 behind them are not counted
        in `index`, so that the next tokens overwrite them. The decoder of an encoder-decoder needs the `memory`.
        """
        arguments = [inputs] if cache is None else [inputs, cache]
        if cache is not None and not (self.causal or self.seq2seq):
            raise InputError(f"model_type {self.family} is bidirectional: it has no generation cache")
        more = {"memory": memory} if self.seq2seq else {}
        if cache is None:
            more["at"] = at
        if prompt is not None:
            more["prompt"] = prompt
        method = "encode" if cache is None else "decode"
        return self.module.apply({"params": params}, *arguments, soft, prefix, method=method, **more)

    def head(self, params: Any, hidden: Float[Array, "*batch embed"], columns=None) -> Float[Array, "*batch vocab"]:
        """Returns float32 logits of the whole vocabulary, or of the token ids `columns [C]` alone.

        Raises InputError if the checkpoint has no language-model (or masked-language-model) head.
        """
        return self.module.apply({"params": params}, hidden, columns, method="logits")

    def pool(self, params: Any, hidden: Float[Array, "*batch embed"]) -> Float[Array, "*batch embed"]:
        """Returns BERT's pooler output of first-token states; raises InputError if the checkpoint has no pooler."""
        if self.causal or self.seq2seq:
            raise InputError(f"model_type {self.family} has no pooler")
        return self.module.apply({"params": params}, hidden, method="pool")

    def empty_cache(self, rows: int, length: int) -> Cache:
        """Returns a cache for `rows` sequences of up to `length` tokens each, prefix not counted."""
        shape = (self.num_layers, rows, length, self.num_kv_heads, self.head_dim)
        return Cache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype), jnp.zeros(rows, jnp.int32))

    def logits(
        self, input_ids: Any, attention_mask: Any = None, prompt: Any = None, decoder_input_ids: Any = None
    ) -> Float[Array, "rows seq vocab"]:
        """Returns float32 logits at the given tokens, never at prompt positions.

        Args:
          input_ids: `[rows, seq]` ints; lists, numpy or jax arrays.
          attention_mask: `[rows, seq]`, 0 at padding, left or right; None means no padding. Positions count real
            tokens.
          prompt: None; a soft prompt `[P, D]`, placed before every row of `input_ids`; a `Prefix`; or an object with
            attributes `soft` and `prefix`, either of which may be None. Of an encoder-decoder, `prefix` is the
            decoder's; the encoder's is the attribute `source_prefix`, if there is one.
          decoder_input_ids: `[rows, decoder_seq]`, of an encoder-decoder alone, whose logits they are; they start with
            the start token.

        Raises:
          InputError: malformed input, a prompt of another model's width, or more tokens than `max_positions`.
        """
        return padded.forward(self, True, input_ids, attention_mask, prompt, decoder_input_ids)

    def hidden(
        self, input_ids: Any, attention_mask: Any = None, prompt: Any = None, decoder_input_ids: Any = None
    ) -> Float[Array, "rows seq embed"]:
        """Returns final hidden states at the given tokens; arguments and errors as in `logits`."""
        return padded.forward(self, False, input_ids, attention_mask, prompt, decoder_input_ids)


def load_backbone(
    ref: str | Path,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    remat: str = "dots",
    quantize: str | None = None,
    attention: str = "xla",
    unroll: bool | None = None,
) -> Backbone:
    """Loads a frozen model from Hugging Face files, or makes one of a published shape with random weights.

    Args:
      ref: a folder, a hub id `org/name`, or `package:module/path` (see `jaxprompt.weights.reference.resolve`); or
        `random:NAME`, a shape of `jaxprompt.models.presets` with random weights and a tokenizer of bytes.
      dtype: of weights and activations: "float32"; "bfloat16" or "float16" for half the memory.
      mesh: from `jaxprompt.sharding.make_mesh`; default: all devices, each with the whole model.
      remat: what the backward pass recomputes: "none", "dots" (all but the weight matmuls) or "full". Use "full" when
        activations do not fit; "none" needs much more memory and is slower on a CPU, where memory is what limits.
      quantize: "int8" or "int4" keeps the matrices of attention and MLP in 8 or about 4.5 bits per weight, when the
        model does not fit otherwise. Embeddings, head, norms and biases stay in `dtype`, and so do activations. Int8
        hardly changes a prompt's gradient (mean cosine 0.996 to 0.999 on two small models); int4 does (0.72 to 0.95).
      attention: how it is computed: "xla", on any device; "cudnn", by cuDNN's flash attention on an NVIDIA GPU, in
        bfloat16 or float16, whose memory does not grow with the square of the row.
      unroll: gives every layer weights and code of its own, where they are else one stack and one loop, which copies
        weights out of the stack and what it keeps into another. Faster, above all text generation; 1.2 to 3
        times as long to compile, and on a CPU a train step takes more memory. None: on a GPU that holds all weights.

    Raises:
      InputError: a missing model, a feature or family that is not supported, or files that do not fit the config.
    """
    if isinstance(ref, str) and ref.startswith("random:"):
        family, config = preset(ref.removeprefix("random:"))
        tokenizer = functools.partial(byte_tokenizer, family.name)
        return _random(ref, family.name, config, 0, tokenizer, dtype, mesh, remat, quantize, attention, unroll)
    kind, quantize = _dtype(dtype), check_quantize(quantize)
    mesh = make_mesh() if mesh is None else mesh
    folder = resolve(ref)
    config_json = read_json(folder / "config.json")
    family = family_of(config_json.get("model_type"))
    generation = _generation(folder, {"forced_eos_token_id": family.forced_eos_id, **config_json})
    if generation.get("decoder_start_token_id") is not None:
        config_json["decoder_start_token_id"] = generation["decoder_start_token_id"]
    checkpoint = open_checkpoint(folder)
    names = canonical_names(checkpoint, family)
    config = family.translate(config_json, names.keys())
    module = build(config, kind, remat, mesh, attention)
    params, used = load_params(checkpoint, names, family, module, mesh, quantize)
    return Backbone(
        ref=str(ref),
        family=family.name,
        config=config,
        module=module,
        params=_laid_out(params, unroll, mesh),
        mesh=mesh,
        fingerprint=fingerprint(checkpoint, config, used),
        dtype=kind,
        read_tokenizer=functools.partial(read_tokenizer, folder),
        eos_ids=_eos_ids({**config_json, **generation}),
        forced_bos_id=_token(generation, "forced_bos_token_id"),
        forced_eos_id=_token(generation, "forced_eos_token_id"),
    )


def random_backbone(
    config: ModelConfig,
    seed: int = 0,
    tokenizer: Any = None,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    remat: str = "dots",
    quantize: str | None = None,
    attention: str = "xla",
    unroll: bool | None = None,
) -> Backbone:
    """Returns a backbone with random weights, for tests and throughput measurements; arguments as `load_backbone`."""
    name, read = f"random:{seed}", lambda: tokenizer
    return _random(name, "random", config, seed, read, dtype, mesh, remat, quantize, attention, unroll)


def _random(ref, family, config, seed, tokenizer, dtype, mesh, remat, quantize, attention, unroll) -> Backbone:
    mesh = make_mesh() if mesh is None else mesh
    module = build(config, _dtype(dtype), remat, mesh, attention)
    params = random_params(module, seed, check_quantize(quantize))
    return Backbone(
        ref=ref,
        family=family,
        config=config,
        module=module,
        params=_laid_out(params, unroll, mesh),
        mesh=mesh,
        fingerprint=hashlib.sha256(f"{config!r} {seed}".encode()).hexdigest()[:16],
        dtype=module.dtype,
        read_tokenizer=tokenizer,
    )


def _laid_out(params: Any, unroll: bool | None, mesh: Mesh) -> Any:
    """The parameters as `load_backbone` says."""
    if unroll is None:
        # Split weights are gathered before use; a loop bounds how many layers' are at a time.
        unroll = mesh.devices.flat[0].platform == "gpu" and mesh.shape["fsdp"] == 1
    return unstack(params) if unroll else params


def _dtype(name: str) -> Any:
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}{did_you_mean(name, DTYPES)}")
    return DTYPES[name]


def _generation(folder: Path, config_json: dict[str, Any]) -> dict[str, Any]:
    """The settings of generation: those of their own file, else those of config.json."""
    file = folder / "generation_config.json"
    return read_json(file) if file.is_file() else config_json


def _eos_ids(settings: dict[str, Any]) -> tuple[int, ...]:
    ids = settings.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    return tuple(i for i in ids if isinstance(i, int))


def _token(settings: dict[str, Any], name: str) -> int | None:
    return None if settings.get(name) is None else token_id(settings, name, 0)


__all__ = ["Backbone", "Cache", "load_backbone", "random_backbone"]
