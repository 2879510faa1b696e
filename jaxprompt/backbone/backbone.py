"""The frozen pretrained model: what methods, the train step and users call."""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt.backbone import padded
from jaxprompt.errors import InputError
from jaxprompt.models import Cache, Memory, ModelConfig, Seq2SeqConfig
from jaxprompt.text.tokens import fingerprint
from jaxprompt.types import Ahead, Inputs, Prefix

_TOKENIZERS = ("tokenizer", "tokenizer_fingerprint")


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
        Until the backbone is loaded, their shapes, types and shardings.
      mesh: where the parameters lie.
      fingerprint: 16 hex digits that identify the model, whatever dtype and mesh it was loaded to; "" until it is.
      read_tokenizer: called once, when `tokenizer` is first used.
      eos_ids: what ends a generated text, beside the tokenizer's end of sequence.
      forced_bos_id, forced_eos_id: what a written text must begin with, and end with where it is cut off at its length
        (BART); None: anything.
      reading: gives `params` and `fingerprint`; None in a loaded backbone.
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
    reading: Future | None = None

    def loaded(self) -> "Backbone":
        """Waits for the weights and returns the backbone with them. Raises what reading them raised."""
        if self.reading is None:
            return self
        params, fingerprint = self.reading.result()
        loaded = dataclasses.replace(self, params=params, fingerprint=fingerprint, reading=None)
        # What is known of the tokenizer stays known.
        loaded.__dict__.update({name: self.__dict__[name] for name in _TOKENIZERS if name in self.__dict__})
        return loaded

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer; raises InputError if the model came without one."""
        return self.read_tokenizer()

    @functools.cached_property
    def tokenizer_fingerprint(self) -> str | None:
        """16 hex digits of what the tokenizer does; None if the model came without one, whose ids are the user's."""
        try:
            return fingerprint(self.tokenizer)
        except InputError:
            return None

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
    def ahead_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of a token of `Batch.source`, the shapes of what can be computed before: see `Batch.ahead`."""
        return ((self.hidden_size,),) if self.seq2seq else (self.prefix_shape, self.prefix_shape)

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

    def keys_values(self, params: Any, ids: Int[Array, " text"]) -> tuple[Prefix, Prefix | None]:
        """Returns every layer's keys and values of one text, for a prefix to start from; an encoder's has length 0.

        Of an encoder-decoder they are the decoder's, which writes the text that the encoder reads, and the encoder's.
        """
        found = self.module.apply({"params": params}, ids, method="prefill" if self.causal else "keys_values")
        return found if self.seq2seq else (found, None)

    def look_ahead(self, params: Any, inputs: Inputs, *, soft=None, prefix: Prefix | None = None) -> Ahead:
        """Returns the keys and values of packed rows, for `apply` to rows of the same segments that stand behind them.

        Raises InputError unless the backbone is causal.
        """
        if not self.causal:
            raise InputError(f"model_type {self.family} is not causal: no text can be computed ahead of another")
        return self.module.apply({"params": params}, inputs, soft, prefix, method="look_ahead")

    def read(self, params: Any, source: Inputs, *, soft=None, prefix: Prefix | None = None) -> Memory:
        """Runs the encoder of an encoder-decoder over packed rows; returns what its decoder reads of them."""
        return self.module.apply({"params": params}, source, soft, prefix, method="read")

    def source_hidden(
        self, params: Any, source: Inputs, *, soft=None, prefix: Prefix | None = None
    ) -> Float[Array, "rows seq embed"]:
        """Returns the hidden states of an encoder-decoder's encoder, of which `remember` makes what `read` returns."""
        return self.module.apply({"params": params}, source, soft, prefix, method="source_hidden")

    def remember(self, params: Any, hidden: Float[Array, "rows seq embed"], source: Inputs) -> Memory:
        """Returns what the decoder of an encoder-decoder reads of `source_hidden`."""
        return self.module.apply({"params": params}, hidden, source, method="remember")

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
        ahead: Ahead | None = None,
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
        given = {"prompt": prompt, "ahead": ahead}
        more |= {name: value for name, value in given.items() if value is not None}
        method = "encode" if cache is None else "decode"
        return self.module.apply({"params": params}, *arguments, soft, prefix, method=method, **more)

    def head(self, params: Any, hidden: Float[Array, "*batch embed"], columns=None) -> Float[Array, "*batch vocab"]:
        """Returns float32 logits of the whole vocabulary, or of the token ids `columns [C]` alone.

        Raises InputError if the checkpoint has no language-model (or masked-language-model) head.
        """
        return self.module.apply({"params": params}, hidden, columns, method="logits")

    def head_params(self, params: Any) -> Any:
        """Returns the few parameters that `head` reads: none of the layers."""
        return {name: part for name, part in params.items() if name not in ("layers", "encoder", "decoder")}

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
        """Returns float32 logits at the given tokens, never at prompt positions. They are as the model computes them.

        That may be NaN or infinite, as where a model overflows float16; `generate`, `predict` and `evaluate` refuse it.

        Args:
          input_ids: `[rows, seq]` ints; lists, numpy or jax arrays.
          attention_mask: `[rows, seq]`, 0 at padding, left or right; None means no padding. Positions count real
            tokens.
          prompt: None; a soft prompt `[P, D]`, placed before every row of `input_ids`; a `Prefix`; or an object with
            attributes `soft` and `prefix`, either of which may be None. Of an encoder-decoder, `prefix` is the
            decoder's; the encoder's is the attribute `source_prefix`, if there is one. A `Prompt` whose template has
            its soft rows first is such an object; hard text of the template is the caller's to put in `input_ids`.
          decoder_input_ids: `[rows, decoder_seq]`, of an encoder-decoder alone, whose logits they are; they start with
            the start token.

        Raises:
          InputError: malformed input, a prompt of another model's width, with numbers that are not finite or learned
            with soft rows elsewhere than before everything, or more tokens than `max_positions`.
        """
        return padded.forward(self, True, input_ids, attention_mask, prompt, decoder_input_ids)

    def hidden(
        self, input_ids: Any, attention_mask: Any = None, prompt: Any = None, decoder_input_ids: Any = None
    ) -> Float[Array, "rows seq embed"]:
        """Returns final hidden states at the given tokens; arguments and errors as in `logits`."""
        return padded.forward(self, False, input_ids, attention_mask, prompt, decoder_input_ids)
