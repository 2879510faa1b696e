"""From a config to the parts of a run: backbone, method, objective, row encoder."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxprompt.backbone import Backbone, load_backbone
from jaxprompt.config import Config
from jaxprompt.errors import InputError
from jaxprompt.experiment.context import context_of
from jaxprompt.experiment.figures import figures_of
from jaxprompt.experiment.rows import found_labels, naming, training_rows
from jaxprompt.machine.background import Background
from jaxprompt.machine.sharding import make_mesh, on_host
from jaxprompt.methods import METHODS, Method, Start, fills_slots, fold, make_method, reads_text
from jaxprompt.objectives import OBJECTIVES, DataAccess, Objective
from jaxprompt.prompts import Prompt
from jaxprompt.reports.terminal import Reporter
from jaxprompt.scoring.forward import Forward
from jaxprompt.text.chat import chat_template, parse_turns
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.labels import LabelSet, by_label
from jaxprompt.text.templates import Template, parse_template
from jaxprompt.types import prefix_length


@dataclass(frozen=True)
class Experiment:
    """Everything of a run but its data. Its backbone may still be loading, see `build`.

    Attributes:
      variants: encoders by the other templates that training draws from.
    """

    config: Config
    backbone: Backbone
    method: Method
    objective: Objective
    encoder: RowEncoder
    variants: tuple[RowEncoder, ...] = ()

    @property
    def learns_rows_alone(self) -> bool:
        """Whether text before the first soft token of a decoder, or on another side, is what the bare model makes of it."""
        return not jax.eval_shape(self.method.apply, self.trainable_shapes()).reaches_hard_text

    @property
    def bare_source(self) -> bool:
        """Whether no encoder reads a soft token, by any of the templates."""
        return all(encoder.bare_source for encoder in (self.encoder, *self.variants))

    @property
    def source_is_bare(self) -> bool:
        """Whether an encoder reads its side as the bare model does: there is no way back through it, and it can be kept."""
        return self.bare_source and self.learns_rows_alone

    def forward(self, hoisted: Sequence[int]) -> Forward:
        return Forward(self.backbone, self.objective, tuple(hoisted), self.bare_source)

    def loaded(self) -> "Experiment":
        """Waits for the weights. Raises what reading them raised."""
        return dataclasses.replace(self, backbone=self.backbone.loaded())

    def trainable_shapes(self) -> dict[str, dict]:
        """The shapes of `init_trainable`, for which no weight is read. Raises InputError where there is no such start."""

        def init(params):
            return dataclasses.replace(
                self, backbone=dataclasses.replace(self.backbone, params=params)
            ).init_trainable()

        return jax.eval_shape(init, self.backbone.params)

    def init_trainable(self) -> dict[str, dict]:
        """The trainable groups at step 0, a pure function of the config's seed."""
        key = jax.random.key(self.config.seed_of("start"))
        start = Start(self.backbone, self.objective.label_texts)
        return {**self.method.init(key, start), **self.objective.init(self.backbone.hidden_size)}

    def encode(self, rows: Sequence[dict], labelled: bool = True, required: bool = True) -> list[Encoded]:
        """Encodes rows, with their labels or targets when `labelled`; those must be there when `required`."""
        examples = []
        for number, row in enumerate(rows, 1):
            answer = self.objective.answer(row, number, required) if labelled else {}
            examples.append(self.objective.encode(row, answer, self.encoder, number))
        return examples

    def prompt(self, trainable: dict[str, dict]) -> Prompt:
        """What is learned, folded, as a value to keep."""
        config, backbone = self.config, self.backbone
        conditioning, head = on_host((fold(self.method, trainable), trainable.get("head", {})), backbone.mesh)
        info = {
            "method": self.method.name,
            # The chat as template text: whoever uses the prompt needs no chat template.
            "template": self.encoder.template.text,
            **({} if config.chat is None else {"chat": turns_of(config)}),
            "objective": config.objective.model_dump(mode="json"),
            "labels": list(self.objective.label_names),
            "backbone": {
                "ref": config.model,
                "fingerprint": backbone.fingerprint,
                "hidden_size": backbone.hidden_size,
                "num_layers": backbone.num_layers,
                "vocab_size": backbone.vocab_size,
            },
            "tokenizer": self.encoder.tokens.fingerprint,
            "max_length": self.encoder.max_length,
        }
        return Prompt(conditioning, head, info)


def configured_backbone(config: Config, background: Background | None = None) -> Backbone:
    """Loads the backbone as a config says, onto its mesh; `background` as in `load_backbone`."""
    mesh = make_mesh(**config.mesh.model_dump())
    return load_backbone(config.model, mesh=mesh, **backbone_options(config), background=background)


def backbone_options(config: Config) -> dict[str, Any]:
    """How a config's backbone is loaded, wherever it lies: arguments of `load_backbone`."""
    return {
        "dtype": config.dtype,
        "remat": config.train.remat,
        "quantize": config.quantize,
        "attention": config.attention,
        "unroll": config.unroll,
        "matmul_precision": config.matmul_precision,
    }


def build(
    config: Config,
    backbone: Backbone | None = None,
    reporter: Reporter | None = None,
    label_names: Sequence[str] | None = None,
    background: Background | None = None,
) -> Experiment:
    """Puts a config's parts together. Cheap checks come before the weights are read.

    Args:
      backbone: loaded already; default: the config's.
      label_names: the classes, when they are known from a run; default: from the config or the training rows.
      background: where the weights are read while the caller goes on: of the backbone there are only the shapes until
        `Experiment.loaded`. Default: they are waited for.
    """
    if config.tasks is not None:
        raise InputError("the config is of several tasks: give it to train, or to experiment.several.build_several")
    _check_slots(config)
    objective = make_objective(config, label_names)
    figures_of(config, objective)  # which refuses those that are none
    if backbone is None:
        if reporter is not None:
            reporter.say(f"loading {config.model} ({config.dtype}) ...")
        backbone = configured_backbone(config, background)
        if reporter is not None and backbone.reading is not None:
            start = time.perf_counter()

            def tell(reading):
                if not reading.cancelled() and reading.exception() is None:
                    reporter.say(f"loaded {config.model} in {time.perf_counter() - start:.1f} s")

            backbone.reading.add_done_callback(tell)
    text = config.template
    if config.chat is not None:
        text = chat_template(turns_of(config), backbone.tokenizer, ends=objective.scores_eos)
    template = parse_template(text)
    method = make_method(config.method, template.soft_length, backbone)
    encoder, *variants = (
        _encoder(config, objective, method, backbone, one) for one in (template, *_other_templates(config, template))
    )
    if objective.needs_weights:
        backbone = backbone.loaded()
    if hasattr(method, "with_context") and label_names is None:
        method = method.with_context(context_of(config, objective, encoder, *method.asked))
    objective = objective.bound(backbone, encoder)
    for variant in variants:
        objective.check_variant(variant)
    return Experiment(config, backbone, method, objective, encoder, tuple(variants))


def rebuild(config: Config, prompt: Prompt, backbone: Backbone | None = None) -> Experiment:
    """The parts of a finished run, whose prompt this is; arguments and errors as those of `build`.

    Raises InputError for a prompt of another backbone.
    """
    experiment = build(config, backbone, label_names=prompt.info["labels"])
    prompt.check(experiment.backbone)
    return experiment


def _encoder(
    config: Config, objective: Objective, method: Method, backbone: Backbone, template: Template
) -> RowEncoder:
    objective.check(template, backbone.causal, backbone.seq2seq)
    return RowEncoder(
        template,
        backbone.tokenizer,
        vocab_size=backbone.vocab_size,
        causal=backbone.causal,
        max_length=_max_length(config, method, backbone),
        scores_eos=objective.scores_eos,
        start_id=backbone.config.start_id if backbone.seq2seq else None,
        marks=reads_text(method),
    )


def _other_templates(config: Config, template: Template) -> list[Template]:
    """Those of data.augment. Raises InputError for one with other soft tokens, or beside a chat."""
    texts = config.data.augment.templates
    if texts and config.chat is not None:
        raise InputError("data.augment.templates are variants of a template, not of a chat: leave them out")
    others = [parse_template(text) for text in texts]
    for other in others:
        if other.soft_length != template.soft_length:
            raise InputError(
                f"data.augment.templates has {other.text!r} with {other.soft_length} soft tokens, the template has "
                f"{template.soft_length}: give it as many"
            )
    return others


def turns_of(config: Config) -> list[dict[str, str]]:
    return [turn.model_dump() for turn in config.chat or ()]


def soft_length(config: Config) -> int:
    """Rows of the soft prompt that the config's template or chat has. Raises InputError where that is none."""
    parts = [parse_template(config.template)] if config.chat is None else parse_turns(turns_of(config))
    return sum(part.soft_length for part in parts)


def _check_slots(config: Config) -> None:
    """Raises InputError where the template has soft slots that the method does not fill, or none that it needs."""
    name, length = config.method.name, soft_length(config)
    what = "chat" if config.chat is not None else f"template {config.template!r}"
    filling = [other for other, method in METHODS.items() if method.fills_slots]
    if fills_slots(config.method) and not length:
        others = " or ".join(other for other in METHODS if other not in filling)
        raise InputError(f"{what} has no {{soft:N}} slot: add one, or set method.name to {others}")
    if length and not fills_slots(config.method):
        raise InputError(
            f"{what} has soft tokens but method.name is {name!r}: remove {{soft:N}} or set method.name={filling[0]}"
        )


def make_objective(config: Config, label_names: Sequence[str] | None = None) -> Objective:
    """The objective of a config, not yet bound to a backbone; `label_names` as in `build`."""

    def labels() -> LabelSet:
        if label_names is not None:
            return LabelSet(tuple(label_names), inferred=True)
        if config.data.train is None:
            raise InputError("objective.labels is not set and there is no data.train to find the labels in: set it")
        with naming(config, "train"):
            return found_labels(config)

    def counts(labels: LabelSet) -> list[int]:
        # A run that is used learns nothing more, and its training rows need not be there.
        if label_names is not None or config.data.train is None:
            return [1] * len(labels.names)
        rows = training_rows(config)
        with naming(config, "train"):
            found = by_label(rows, config.data.label, labels)
        return [len(found.get(name, ())) for name in labels.names]

    data = DataAccess(config.data.label, config.data.target, labels, counts)
    return OBJECTIVES[config.objective.type].build(config.objective, data)


def _max_length(config: Config, method: Method, backbone: Backbone) -> int:
    """Tokens per example: what the backbone has positions for, less those that the method takes."""
    room = backbone.max_positions - method.positions
    asked = config.data.max_length
    if room < 1:
        raise InputError(
            f"method.length {method.positions} leaves no room in the {backbone.max_positions} positions of "
            f"{backbone.ref!r}: lower it"
        )
    if (asked or 0) > room:
        raise InputError(f"data.max_length {asked} exceeds the {room} positions that {backbone.ref!r} leaves: lower it")
    return asked or room


def context_encoder(backbone: Backbone, prompt: Prompt) -> RowEncoder:
    """The encoder of a generation prompt's contexts: its template, up to the target."""
    return RowEncoder(
        parse_template(prompt.info["template"]),
        backbone.tokenizer,
        vocab_size=backbone.vocab_size,
        causal=backbone.causal,
        max_length=prompt.info.get("max_length") or backbone.max_positions - prefix_length(prompt.prefix),
        scores_eos=True,
        start_id=backbone.config.start_id if backbone.seq2seq else None,
        marks=prompt.generator is not None,
    )
