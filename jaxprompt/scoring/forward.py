"""From a conditioning and a batch to scores: backbone and objective put together."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.stages import Compiled
from jaxtyping import Array, Int

from jaxprompt.machine import compiler
from jaxprompt.machine.ahead import shape_of
from jaxprompt.models.adapted import adapted
from jaxprompt.models.numbered import numbered, texts_ahead
from jaxprompt.objectives import Objective, Vocabulary
from jaxprompt.scoring.owners import in_one_row
from jaxprompt.text.hoisting import split_constant
from jaxprompt.types import Ahead, Batch, Conditioning, Inputs, Prefix, Scores, prefix_length

# Constant text of more tokens is read so many at a time.
CHUNK = 2048


@dataclass(frozen=True)
class Forward:
    """Scores batches. It knows of a method what the method's conditioning holds, and nothing else.

    Attributes:
      hoisted: token ids of the leading part of the template that is the same for every example of the batches; a
        causal backbone computes it once per step (the hard text before the first soft token: once per run).
        Empty for encoders. Of batches of several tasks, one for each: every example sees its own.
      bare_source: whether there is an encoder beside the decoder that reads no soft token: there is no way back through it
        then, unless something else is learned of it.
    """

    backbone: object
    objective: Objective
    hoisted: tuple[int, ...] | tuple[tuple[int, ...], ...] = ()
    bare_source: bool = False

    def prefill(self) -> Compiled | None:
        """The program of the hard text before the first soft token; None where there is none.

        It is compiled for the backbone's parameters, which may be shapes only.
        """
        backbone, (hard, _) = self.backbone, self._hoisted(None)
        return None if hard is None else compiler.jit(self._prefill).lower(backbone.params, hard).compile()

    def frozen(self, prefill: Compiled | None = None) -> dict:
        """Everything that no step changes: the argument that carries it into compiled code, never captured by it.

        Args:
          prefill: what `prefill` returns, where that is known.
        """
        backbone, hard_prefix, (hard, _) = self.backbone, None, self._hoisted(None)
        if hard is not None:
            # The compiler sees no gradient through this: constant text before the prompt costs no backward pass.
            hard_prefix = (prefill or compiler.jit(self._prefill))(backbone.params, hard)
        return self._frozen(hard_prefix)

    def _prefill(self, params: dict, hard: Int[Array, " text"] | Inputs) -> Prefix:
        """Keys and values of hard text, of which no more than a chunk is at work at once."""
        if isinstance(hard, Inputs) or len(hard) <= CHUNK:
            return self.backbone.prefill(params, hard)
        length = len(hard)
        chunks = -(-length // CHUNK)
        ids = jnp.pad(hard, (0, chunks * CHUNK - length)).reshape(chunks, 1, CHUNK)
        positions = jnp.arange(chunks * CHUNK).reshape(chunks, 1, CHUNK)
        texts = Inputs(ids, positions, (positions < length).astype(jnp.int32))

        def read(cache, text):
            return self.backbone.apply(params, text, cache=cache)[1], None

        cache, _ = jax.lax.scan(read, self.backbone.empty_cache(1, chunks * CHUNK), texts)
        return Prefix(cache.keys[:, 0, :length], cache.values[:, 0, :length], length)

    def frozen_shapes(self, prefill: Compiled | None) -> dict:
        """What `frozen` will be, in shapes, types and shardings: enough to compile for."""
        hard_prefix = None
        if prefill is not None:
            # Where it lies, the compiler has chosen.
            hard_prefix = jax.tree.map(shape_of, prefill.out_info, prefill.output_shardings)
        return jax.tree.map(shape_of, self._frozen(hard_prefix))

    def _frozen(self, hard_prefix) -> dict:
        return {"params": self.backbone.params, "objective": self.objective.frozen(), "hard_prefix": hard_prefix}

    def reads_apart(self, batch: Batch) -> bool:
        """Whether text is read here, with the rows, that no soft token reaches."""
        return batch.source is not None and batch.ahead is None and (self.bare_source or not self.backbone.seq2seq)

    def look_ahead(self, frozen: dict, batch: Batch) -> tuple[jax.Array, ...]:
        """What of `batch.source` is `Batch.ahead`; nothing that is learned reaches it."""
        if self.backbone.seq2seq:
            return (self.backbone.source_hidden(frozen["params"], batch.source),)
        source = batch.source.replace(positions=batch.source.positions + len(self.hoisted))
        ahead = self.backbone.look_ahead(frozen["params"], source, prefix=frozen["hard_prefix"])
        return tuple(jnp.moveaxis(part, 0, 2) for part in (ahead.keys, ahead.values))

    def __call__(self, conditioning: Conditioning, head: dict, frozen: dict, batch: Batch) -> Scores:
        backbone = self.backbone
        params = adapted(frozen["params"], conditioning)
        inputs, source = batch.inputs, batch.source
        if conditioning.change is not None:
            inputs, source = self._numbered(params, batch)
        if batch.keys is not None:
            conditioning = _of_length(conditioning, batch.keys)
        if batch.keys is not None or batch.lead is not None:
            inputs = inputs.replace(owners=jnp.zeros_like(inputs.ids))
            source = None if source is None else source.replace(owners=jnp.zeros_like(source.ids))
        prefix, (_, shared) = frozen["hard_prefix"], self._hoisted(None)
        if conditioning.reaches_hard_text:
            # What was computed of the bare model is not what this one makes of it.
            prefix, (shared, _) = conditioning.prefix, self._hoisted(conditioning)
        if conditioning.prefix is not None:
            start = conditioning.prefix.starts(inputs.owners)
            if conditioning.prefix.length and batch.keys is not None:
                start = batch.keys
            inputs = inputs.replace(positions=inputs.positions + start)
        if batch.lead is not None:
            shared = _leading(shared, batch.lead, prefix_length(prefix))
            if prefix is not None:
                prefix = prefix.replace(owners=jnp.zeros(prefix.keys.shape[1], jnp.int32))
        memory = ahead = None
        if batch.source is not None and backbone.seq2seq:
            if batch.ahead is None:
                soft = None if self.bare_source else conditioning.soft_rows
                read = backbone.source_hidden(params, source, soft=soft, prefix=conditioning.source_prefix)
            else:
                (read,) = batch.ahead
            memory = backbone.remember(params, read, source)
        elif batch.source is not None:
            # Text before the first soft token, which does not depend on what is learned: there is no way back through it.
            source = source.replace(positions=source.positions + len(self.hoisted))
            if batch.ahead is None:
                ahead = backbone.look_ahead(params, source, prefix=prefix)
            else:
                keys, values = (jnp.moveaxis(part, 2, 0) for part in batch.ahead)
                ahead = Ahead(keys, values, source.segments, source.positions)
        hidden = backbone.apply(
            params,
            inputs,
            soft=conditioning.soft_rows,
            prefix=prefix,
            memory=memory,
            at=self.objective.at(batch),
            prompt=shared,
            ahead=ahead,
        )
        # On a GPU or a TPU products of float32 are less unless told so.
        with jax.default_matmul_precision("highest"):
            return self.objective.score(Vocabulary(backbone, params), head, frozen["objective"], hidden, batch)

    def _numbered(self, params: dict, batch: Batch) -> tuple[Inputs, Inputs | None]:
        """The rows and their source, the tokens of the input texts numbered."""
        backbone, inputs = self.backbone, batch.inputs
        if backbone.seq2seq:
            return inputs, numbered(params, batch.source, backbone.vocab_size)
        scored = None
        if backbone.causal:
            rows = jnp.arange(inputs.ids.shape[0])[:, None]
            scored = jnp.zeros(inputs.ids.shape, bool).at[rows, batch.target_at].max(batch.target_weight > 0)
        ahead = texts_ahead(self.hoisted, backbone.vocab_size, inputs.owners)
        return numbered(params, inputs, backbone.vocab_size, scored, ahead), batch.source

    def _hoisted(self, conditioning: Conditioning | None) -> tuple:
        """The hoisted ids before the first soft token, and from there on; under a conditioning, all of them together.

        Either is ids, or rows of several owners, or None where it is empty.
        """
        vocab_size = self.backbone.vocab_size
        if not (self.hoisted and isinstance(self.hoisted[0], tuple)):
            hard, rest = map(jnp.asarray, split_constant(self.hoisted, vocab_size))
            parts = (hard, rest) if conditioning is None else (jnp.concatenate([hard, rest]), rest[:0])
            return tuple(part if part.size else None for part in parts)
        if conditioning is not None:
            lengths = None if conditioning.prefix is None else conditioning.prefix.lengths
            return in_one_row(self.hoisted, lengths or (0,) * len(self.hoisted)), None
        hard, rest = zip(*(split_constant(ids, vocab_size) for ids in self.hoisted), strict=True)
        return in_one_row(hard, (0,) * len(hard)), in_one_row(rest, [len(ids) for ids in hard])


def _of_length(conditioning: Conditioning, keys: jax.Array) -> Conditioning:
    """A conditioning of whose prefix only the first so many keys are the rows' own, whose owner is 0."""

    def cut(prefix):
        if prefix is None:
            return None
        return prefix.replace(owners=jnp.where(jnp.arange(prefix.keys.shape[1]) < keys, 0, -1))

    return conditioning.replace(prefix=cut(conditioning.prefix), source_prefix=cut(conditioning.source_prefix))


def _leading(shared: jax.Array | None, lead: jax.Array, start: int) -> Inputs:
    """One row of ids that lead to all rows, of which those of -1, at the end, are nobody's."""
    ids = lead if shared is None else jnp.concatenate([shared, lead])
    there, positions = (ids >= 0)[None], start + jnp.arange(ids.size)[None]
    return Inputs(jnp.maximum(ids, 0)[None], positions, there.astype(jnp.int32), owners=jnp.where(there, 0, -1))
