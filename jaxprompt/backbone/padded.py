"""A backbone on padded rows, one text each: input as users have it, checked, and run."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.errors import InputError
from jaxprompt.machine import compiler
from jaxprompt.models.adapted import adapted, check_deltas
from jaxprompt.models.fits import check_gated, check_late
from jaxprompt.models.numbered import numbered
from jaxprompt.text.templates import Soft, Target, Template, ToDecoder, parse_template
from jaxprompt.types import Conditioning, Inputs, Prefix, prefix_length


def forward(backbone, with_head: bool, input_ids, attention_mask, prompt, decoder_input_ids) -> jax.Array:
    """Returns logits or hidden states; arguments and errors as in `Backbone.logits`."""
    ids, mask = _rows(backbone, input_ids, attention_mask, "input_ids")
    given = prompt_parts(backbone, prompt)
    soft, prefix, source_prefix = given.soft_rows, given.prefix, given.source_prefix
    params = adapted(backbone.params, given)
    if given.generator is not None:
        raise InputError(
            "the prompt depends on the fields of its template, and input_ids do not say which tokens are theirs: use generate, "
            "predict or evaluate"
        )
    _check_place(backbone, prompt)
    _check_text(backbone, prompt, given)
    _check_length(backbone, mask, given.soft, source_prefix if backbone.seq2seq else prefix)
    if not backbone.seq2seq:
        if decoder_input_ids is not None:
            raise InputError(f"decoder_input_ids are for encoder-decoders: model_type {backbone.family} is none")
        return _forward(backbone.module, with_head, params, ids, mask, soft, prefix)
    if decoder_input_ids is None:
        start = backbone.config.start_id
        raise InputError(f"an encoder-decoder needs decoder_input_ids: rows that start with its start token, {start}")
    targets, target_mask = _rows(backbone, decoder_input_ids, None, "decoder_input_ids")
    if len(targets) != len(ids):
        raise InputError(f"decoder_input_ids have {len(targets)} rows, input_ids {len(ids)}: they must agree")
    _check_length(backbone, target_mask, None, prefix)
    return _translate(backbone.module, with_head, params, ids, mask, targets, soft, prefix, source_prefix)


def _check_place(backbone, prompt) -> None:
    """Raises InputError if a prompt was learned, by its template, with soft rows elsewhere than before all else.

    Hard text of the template, which comes behind them then, is the caller's to put into `input_ids`.
    """
    template = _template(prompt)
    pieces = () if template is None else template.pieces
    soft_at = [at for at, piece in enumerate(pieces) if isinstance(piece, Soft)]
    where = None
    if soft_at != list(range(len(soft_at))):
        where = "behind other tokens"
    ends = [at for at, piece in enumerate(pieces) if isinstance(piece, ToDecoder | Target)]
    if backbone.seq2seq and ends and soft_at and soft_at[-1] > ends[0]:
        where = "in the decoder"
    if where is not None:
        raise InputError(
            f"the prompt has soft rows {where} (template {template.text!r}), and here they go before all of input_ids: use "
            "generate, predict or evaluate, which follow the template"
        )


def _check_text(backbone, prompt, given: Conditioning) -> None:
    """Raises InputError for a prompt that changes the text up to a target, where no one says where that begins."""
    template = _template(prompt)
    if given.change is not None and backbone.causal and template is not None and template.has_target:
        raise InputError(
            f"the prompt changes the text before {{target}} alone (template {template.text!r}), and input_ids do not say "
            "where that begins: use generate, predict or evaluate, which follow the template"
        )


def _template(prompt) -> Template | None:
    """The template that a prompt was learned with, if there is one."""
    text = getattr(prompt, "info", {}).get("template")
    return parse_template(text) if text else None


def _rows(backbone, ids, mask, name: str) -> tuple[np.ndarray, np.ndarray]:
    ids = _integers(ids, name)
    mask = np.ones_like(ids) if mask is None else _integers(mask, "attention_mask")
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask is {list(mask.shape)}, {name} {list(ids.shape)}: they must agree")
    if ids.size and not (ids.min() >= 0 and ids.max() < backbone.vocab_size):
        bad = ids[(ids < 0) | (ids >= backbone.vocab_size)][0]
        raise InputError(f"{name} hold {bad}: this model's ids are 0 to {backbone.vocab_size - 1}")
    return ids.astype(np.int32), (mask != 0).astype(np.int32)


def _integers(value: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # Rows of different lengths.
        raise InputError(
            f"{name} must be [rows, seq] with rows of one length: pad them, with an attention_mask"
        ) from error
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise InputError(f"{name} must be integers [rows, seq], got {array.dtype} {list(array.shape)}")
    return array


def prompt_parts(backbone, prompt) -> Conditioning:
    """Returns what users give as a prompt.

    Raises InputError for another model's prompt or shapes, numbers that are not finite, or fewer rows than a template
    takes.
    """
    if hasattr(prompt, "check_origin"):
        prompt.check_origin(backbone)
    source_prefix = getattr(prompt, "source_prefix", None)
    if prompt is None or isinstance(prompt, Prefix):
        soft, prefix = None, prompt
    elif hasattr(prompt, "soft") and hasattr(prompt, "prefix"):
        soft, prefix = prompt.soft, prompt.prefix
    else:
        soft, prefix = prompt, None
    if soft is not None:
        shape = _checked_shape(soft, "soft prompt")
        if len(shape) != 2 or shape[1] != backbone.soft_size or shape[0] < 1:
            raise InputError(
                f"the soft prompt is {list(shape)}, this model needs [prompt_length, {backbone.soft_size}]: "
                "use a prompt that was trained for it"
            )
    text, rows = _template(prompt), 0 if soft is None else len(soft)
    if text is not None and text.soft_length > rows:
        raise InputError(
            f"the prompt has {rows} soft rows, its template {text.text!r} takes {text.soft_length}: put the template "
            "back that it was learned with"
        )
    for part, shape in ((prefix, backbone.prefix_shape), (source_prefix, backbone.source_prefix_shape)):
        for array in () if part is None else (part.keys, part.values):
            got = _checked_shape(array, "prefix")
            if shape is None:
                raise InputError(f"the prompt has an encoder's prefix, model_type {backbone.family} has no encoder")
            if len(got) != 4 or (got[0], *got[2:]) != shape or got[1] < 1 or got != np.shape(part.keys):
                raise InputError(
                    f"the prefix is {list(got)}, this model needs [{shape[0]}, prefix_length, {shape[1]}, "
                    f"{shape[2]}], keys and values alike: use a prefix that was trained for it"
                )
    deltas, gated = getattr(prompt, "deltas", None), getattr(prompt, "gated", None)
    check_deltas(deltas, backbone.params, backbone.ref)
    check_gated(gated, backbone.config, backbone.ref)
    change = getattr(prompt, "change", None)
    if change is not None:
        shape = _checked_shape(change, "change of the text")
        if len(shape) != 2 or shape[1] != backbone.soft_size:
            raise InputError(
                f"the change of the text is {list(shape)}, this model needs [positions, {backbone.soft_size}]: use a prompt "
                "that was trained for it"
            )
    layer = getattr(prompt, "soft_layer", None)
    check_late(layer, backbone.config, backbone.ref)
    generator = getattr(prompt, "generator", None)
    return Conditioning(soft, prefix, source_prefix, deltas, gated, change, generator, layer)


def _checked_shape(array: Any, name: str) -> tuple[int, ...]:
    """The shape of a part of a prompt; raises InputError for what is no array of finite numbers."""
    try:
        kind = array.dtype if hasattr(array, "dtype") else np.asarray(array).dtype
    except ValueError:  # Rows of different lengths.
        kind = None
    if kind is None or not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
        raise InputError(f"the {name} is a {type(array).__name__}: give an array of floats")
    # Under a transformation of the caller's, such as a gradient, there are no numbers yet.
    if not isinstance(array, jax.core.Tracer) and not jnp.isfinite(jnp.asarray(array)).all():
        raise InputError(f"the {name} holds numbers that are not finite: learn it again")
    return np.shape(array)


def _check_length(backbone, mask: np.ndarray, soft, prefix: Prefix | None) -> None:
    ahead = (0 if soft is None else len(soft)) + prefix_length(prefix)
    longest = int((mask != 0).sum(1).max()) if mask.size else 0
    if ahead + longest > backbone.max_positions:
        raise InputError(
            f"{longest} tokens behind a prompt of {ahead} exceed this model's {backbone.max_positions} positions: "
            "shorten the text or the prompt"
        )


def _inputs(ids, mask, start: int = 0) -> Inputs:
    real = (mask != 0).astype(jnp.int32)
    return Inputs(ids, jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0) + start, real)


def _with_soft(module, inputs: Inputs, length: int) -> Inputs:
    """Puts the soft prompt's ids before each row."""
    rows = inputs.ids.shape[0]
    places = jnp.arange(length)
    ahead = (module.config.vocab_size + places, places, jnp.ones_like(places))
    behind = (inputs.ids, inputs.positions + length, inputs.segments)
    joined = [
        jnp.concatenate([jnp.broadcast_to(a, (rows, length)), b], axis=1) for a, b in zip(ahead, behind, strict=True)
    ]
    text = None if inputs.text is None else jnp.pad(inputs.text, ((0, 0), (length, 0)))
    return Inputs(*joined, text=text)


@functools.partial(compiler.jit, static_argnums=(0, 1))
def _forward(module, with_head, params, ids, mask, soft, prefix):
    """Hidden states or logits at the tokens of unpacked, padded rows."""
    variables, ahead = {"params": params}, 0
    if soft is not None and module.causal:
        soft_ids = module.config.vocab_size + jnp.arange(soft.shape[0])
        prefix = module.apply(variables, soft_ids, soft, prefix, method="prefill")
    inputs = numbered(params, _inputs(ids, mask, prefix_length(prefix)), module.config.vocab_size)
    if soft is not None and not module.causal:
        ahead = soft.shape[0]
        inputs = _with_soft(module, inputs, ahead)
    hidden = module.apply(variables, inputs, soft, prefix, method="encode")[:, ahead:]
    return module.apply(variables, hidden, method="logits") if with_head else hidden


@functools.partial(compiler.jit, static_argnums=(0, 1))
def _translate(module, with_head, params, ids, mask, targets, soft, prefix, source_prefix):
    """Hidden states or logits of an encoder-decoder at `targets`."""
    variables = {"params": params}
    # Real tokens first: relative positions go by place in the row, so that padding on the left would come between the
    # soft prompt and the text.
    order = jnp.argsort(mask == 0, axis=1, stable=True)
    ids, mask = (jnp.take_along_axis(array, order, axis=1) for array in (ids, mask))
    source = _inputs(ids, mask, 0 if source_prefix is None else source_prefix.length)
    source = numbered(params, source, module.config.vocab_size)
    if soft is not None:
        source = _with_soft(module, source, soft.shape[0])
    memory = module.apply(variables, source, soft, source_prefix, method="read")
    inputs = _inputs(targets, jnp.ones_like(targets), prefix_length(prefix))
    hidden = module.apply(variables, inputs, None, prefix, memory=memory, method="encode")
    return module.apply(variables, hidden, method="logits") if with_head else hidden
