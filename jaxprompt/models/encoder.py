"""The bidirectional encoder of BERT (Devlin et al. 2018, arXiv:1810.04805) and its kin."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt.errors import InputError
from jaxprompt.machine.sharding import constrain_rows
from jaxprompt.models.block import Block, BlockConfig, LayerInputs, make_norm
from jaxprompt.models.late import Entrance, entrance, hiding, run_with
from jaxprompt.models.layers import ACTIVATIONS, Linear, Table, embed_ids, embed_inputs, linear
from jaxprompt.models.precision import as_asked, exact
from jaxprompt.models.stack import is_last, run_layers
from jaxprompt.ops.views import View, owned, visibility
from jaxprompt.types import Inputs, Prefix


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(BlockConfig):
    """What a bidirectional family is.

    Attributes:
      max_positions: longest input, prompt included.
      head_activation: that of its transform; None: that of the layers.
      embed_size: width of the embeddings; None: the hidden size. Another width is projected.
      skipped_positions: rows of the position table, in files, ahead of the first position's.
      num_types: rows of the token-type table; 0: there is none.
      pooler: whether the checkpoint has a pooler.
      head: masked-language-model head that shares the word embedding, has a weight of its own, or is absent.
    """

    vocab_size: int
    max_positions: int
    num_types: int
    pooler: bool
    head: Literal["tied", "own", "none"]
    head_activation: str | None = None
    embed_size: int | None = None
    skipped_positions: int = 0

    @property
    def soft_size(self) -> int:
        """Width of a soft prompt's rows."""
        return self.embed_size or self.hidden_size

    @property
    def output_size(self) -> int:
        """Width of the hidden states that the model returns."""
        return self.hidden_size


def post_norm_layers(
    hidden_size: int, num_layers: int, num_heads: int, mlp_size: int, activation: str, norm_epsilon: float
) -> dict[str, Any]:
    """Returns the `BlockConfig` fields of BERT's kind of layer."""
    return {
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": hidden_size // num_heads,
        "mlp_size": mlp_size,
        "norm": "layer",
        "norm_epsilon": norm_epsilon,
        "activation": activation,
        "gated_mlp": False,
        "attention_scale": (hidden_size // num_heads) ** -0.5,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "residual": "post",
    }


class MaskedHead(nn.Module):
    """Transform and vocabulary bias of the masked-language-model head, and its weight where it is not tied."""

    config: EncoderConfig
    dtype: Any

    @nn.compact
    def __call__(self, hidden, word, columns=None):
        """Float32 logits; `word` is the word table `[vocab, embed]`."""
        cfg = self.config
        y = Linear(cfg.soft_size, (None, "embed"), dtype=self.dtype, name="transform")(hidden)
        y = make_norm(cfg, self.dtype, name="norm")(ACTIVATIONS[cfg.head_activation or cfg.activation](y))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
        bias = self.param("bias", zeros, (cfg.vocab_size,), self.dtype)
        if cfg.head == "own":
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
            word = self.param("weight", init, word.shape, self.dtype)
        if columns is not None:
            word, bias = word[columns], bias[columns]
        return linear(y, word, bias, out_dtype=jnp.float32)


class Encoder(nn.Module):
    """Token ids to hidden states, masked-token logits and pooled states; attributes as in `Decoder`."""

    config: EncoderConfig
    dtype: Any = jnp.float32
    remat: str = "dots"
    mesh: Mesh | None = None
    attention: str = "xla"
    matmul_precision: str = "highest"

    causal = False

    def setup(self):
        cfg = self.config
        self.word = Table(cfg.vocab_size, cfg.soft_size, "vocab", self.dtype)
        self.position = Table(cfg.max_positions, cfg.soft_size, None, self.dtype)
        if cfg.num_types:
            self.type = Table(cfg.num_types, cfg.soft_size, None, self.dtype)
        self.embed_norm = make_norm(cfg, self.dtype)
        if cfg.soft_size != cfg.hidden_size:
            self.project_in = Linear(cfg.hidden_size, ("embed", None), dtype=self.dtype)
        self.layers = Block(cfg, self.dtype, self.attention, self.mesh)
        if cfg.pooler:
            self.pooler = Linear(cfg.hidden_size, (None, "embed"), dtype=self.dtype)
        if cfg.head != "none":
            self.head = MaskedHead(cfg, self.dtype)

    def __call__(self, inputs: Inputs) -> Float[Array, "rows seq embed"]:
        """Hidden states; visits every parameter, so `init` goes through here."""
        hidden = self.encode(inputs)
        if self.config.pooler:
            self.pool(hidden)
        if self.config.head != "none":
            self.logits(hidden)
        return hidden

    def embed(self, ids: Int[Array, "rows seq"], soft=None) -> Float[Array, "rows seq embed"]:
        """Word or soft embeddings, without positions and types."""
        return embed_ids(self.word.weight, soft, ids)

    @as_asked
    def encode(
        self, inputs: Inputs, soft=None, prefix: Prefix | None = None, at=None
    ) -> Float[Array, "rows seq embed"]:
        """Hidden states of packed rows; of the positions `at [rows, n]` alone, if given.

        A soft id replaces the word embedding; position, type and norm still apply.
        """
        view = View(visibility(inputs, causal=False))
        view = owned(view, inputs.owners, None if prefix is None else prefix.owners)
        given = LayerInputs(view, at=at, owners=inputs.owners)

        def below(slots):
            return given.replace(view=hiding(given.view, slots))

        late = entrance(soft, inputs.ids, self.config.vocab_size, below)
        return self._run(self._enter(inputs, soft), given, prefix, late=late)[0]

    @as_asked
    def keys_values(self, ids: Int[Array, " text"]) -> Prefix:
        """Every layer's keys and values of one sequence. As a prefix it takes no positions: its length is 0."""
        positions = jnp.arange(ids.shape[0])[None]
        inputs = Inputs(ids[None], positions, jnp.ones_like(positions))
        given = LayerInputs(View(visibility(inputs, causal=False)))
        _, (keys, values) = self._run(self._enter(inputs, None), given, None, keep_keys_values=True)
        return Prefix(keys[:, 0], values[:, 0], length=0)

    @jax.named_scope("embed")
    def _enter(self, inputs, soft):
        """What the first layer is given."""
        x_rse = embed_inputs(self.embed, inputs, soft, self.word) + self.position(inputs.positions)
        if self.config.num_types:
            x_rse = x_rse + self.type(jnp.zeros_like(inputs.ids) if inputs.types is None else inputs.types)
        x_rse = self.embed_norm(x_rse)
        return x_rse if self.config.soft_size == self.config.hidden_size else self.project_in(x_rse)

    def _run(self, x_rse, given: LayerInputs, prefix, keep_keys_values=False, late: Entrance | None = None):
        """Returns hidden states, and all layers' (keys, values) or None."""
        num_layers, apart = self.config.num_layers, given.at is not None
        if prefix is not None:
            prefix = prefix.cast(self.dtype)

        def run(carry, given, within):
            def step(block, carry, prefix_kv, layer):
                last = is_last(layer, num_layers)
                x_rse, keys_values, _ = block(carry[0], given.replace(prefix=prefix_kv, layer=layer, is_last=last))
                return (constrain_rows(x_rse, self.mesh), None), keys_values if keep_keys_values else None

            return run_layers(self.layers, step, carry, prefix, num_layers, self.remat, apart, within)

        (x_rse, _), keys_values = run_with(run, (constrain_rows(x_rse, self.mesh), None), given, late, num_layers)
        return x_rse, keys_values

    @as_asked
    def pool(self, hidden: Float[Array, "*batch embed"]) -> Float[Array, "*batch embed"]:
        """BERT's pooler, `tanh(linear(hidden))`, of first-token states."""
        if not self.config.pooler:
            raise InputError("the model has no pooler: load a checkpoint with pooler.dense.weight")
        return jnp.tanh(self.pooler(hidden))

    @exact
    @jax.named_scope("head")
    def logits(self, hidden: Float[Array, "*batch embed"], columns=None) -> Float[Array, "*batch vocab"]:
        """Float32 logits of the vocabulary, or of the token ids in `columns`."""
        if self.config.head == "none":
            raise InputError(
                "the model has no masked-language-model head: load a checkpoint with cls.predictions weights"
            )
        return self.head(hidden, self.word.weight, columns)
