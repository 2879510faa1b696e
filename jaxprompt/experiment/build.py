"""From a config to the parts of a run: backbone, method, objective, encoder, rows of data."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.backbone import Backbone, load_backbone
from jaxprompt.config import Config
from jaxprompt.data.sources import read_rows
from jaxprompt.errors import InputError
from jaxprompt.machine.sharding import make_mesh
from jaxprompt.methods import Method, make_method
from jaxprompt.objectives import Objective, normalize, pool
from jaxprompt.prompts import Prompt
from jaxprompt.reports.terminal import Reporter
from jaxprompt.scoring.forward import Forward
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.encoded import Encoded
from jaxprompt.text.labels import LabelSet, by_label, infer_labels
from jaxprompt.text.templates import parse_template
from jaxprompt.text.values import column_value, text_value
from jaxprompt.types import Inputs


@dataclass(frozen=True)
class Experiment:
    """Everything of a run but its data."""

    config: Config
    backbone: Backbone
    method: Method
    objective: Objective
    encoder: RowEncoder
    label_vectors: jax.Array | None

    @functools.cached_property
    def labels(self) -> LabelSet | None:
        inferred = self.config.objective.labels is None
        return LabelSet(self.objective.label_names, inferred) if self.objective.scores_classes else None

    @property
    def label_texts(self) -> tuple[str, ...]:
        """The words or texts of the labels, for initialisations that start from them."""
        return tuple(word for group in self.objective.words for word in group)

    def forward(self, hoisted: Sequence[int]) -> Forward:
        return Forward(self.backbone, self.method, self.objective, tuple(hoisted), self.label_vectors)

    def init_trainable(self) -> dict:
        """The trainable pytree at step 0, a pure function of the config's seed."""
        key = jax.random.key(self.config.seed)
        return {
            "prompt": self.method.init(key, self.backbone, self),
            "head": self.objective.init_head(self.backbone.hidden_size),
        }

    def encode(self, rows: Sequence[dict], labelled: bool = True) -> list[Encoded]:
        """Encodes rows; their labels or targets must be there when `labelled`."""
        columns = self.config.data
        examples = []
        for number, row in enumerate(rows, 1):
            target = label = None
            if labelled and self.objective.scores_classes:
                label = self.labels.label_id(column_value(row, columns.label, number, "data.label"), row=number)
            elif labelled:
                target = text_value(row, columns.target, number, "data.target")
            examples.append(self.encoder.encode(row, target, label, number=number))
        return examples

    def prompt(self, trainable: dict) -> Prompt:
        """The trainable pytree as a value to keep."""
        host = jax.tree.map(np.asarray, jax.device_get(trainable))
        config, objective = self.config, self.objective
        info = {
            "template": config.template,
            "objective": config.objective.model_dump(mode="json"),
            "labels": list(objective.label_names),
            "backbone": {
                "ref": config.model,
                "fingerprint": self.backbone.fingerprint,
                "hidden_size": self.backbone.hidden_size,
                "num_layers": self.backbone.num_layers,
                "vocab_size": self.backbone.vocab_size,
            },
            "prefix_start": getattr(self.method.apply(trainable["prompt"]).prefix, "length", 0),
            "max_length": self.encoder.max_length,
        }
        return Prompt(self.method.name, host["prompt"], host["head"], info)


def configured_backbone(config: Config) -> Backbone:
    """Loads the backbone as a config says, onto its mesh."""
    return load_backbone(
        config.model,
        dtype=config.dtype,
        mesh=make_mesh(**config.mesh.model_dump()),
        remat=config.train.remat,
        quantize=config.quantize,
        attention=config.attention,
        unroll=config.unroll,
    )


def build(
    config: Config,
    backbone: Backbone | None = None,
    reporter: Reporter | None = None,
    label_names: Sequence[str] | None = None,
) -> Experiment:
    """Puts a config's parts together. Cheap checks come before the weights are read.

    Args:
      backbone: loaded already; default: the config's.
      label_names: the classes, when they are known from a run; default: from the config or the training rows.
    """
    template = parse_template(config.template)
    method = config.method
    if method.name == "soft" and template.soft_length == 0:
        raise InputError(
            f"template {config.template!r} has no {{soft:N}} slot: add one, or set method.name to prefix or none"
        )
    if method.name != "soft" and template.soft_length:
        raise InputError(
            f"template {config.template!r} has soft tokens but method.name is {method.name!r}: remove {{soft:N}} or set "
            "method.name=soft"
        )
    names, words = _labels(config, label_names)
    if backbone is None:
        if reporter is not None:
            reporter.say(f"loading {config.model} ({config.dtype}) ...")
        backbone = configured_backbone(config)
    kind, how = config.objective.type, config.objective.pool or ("last" if backbone.causal else "mean")
    encoder = RowEncoder(
        template,
        backbone.tokenizer,
        vocab_size=backbone.vocab_size,
        causal=backbone.causal,
        max_length=_max_length(config, backbone),
        objective=kind,
        words=words if kind == "verbalizer" else None,
        start_id=backbone.config.start_id if backbone.seq2seq else None,
        pool=how,
    )
    single = kind == "verbalizer" and all(len(ids) == 1 for ids in encoder.word_ids)
    objective = Objective(
        kind,
        label_names=names,
        words=words,
        columns=tuple(ids[0] for ids in encoder.word_ids) if single else None,
        pool=how,
        temperature=config.objective.temperature,
    )
    vectors = _label_vectors(backbone, objective) if kind == "similarity" else None
    chosen = make_method(method, template.soft_length, backbone)
    return Experiment(config, backbone, chosen, objective, encoder, vectors)


def _max_length(config: Config, backbone: Backbone) -> int:
    """Tokens per example: what the backbone has positions for, less a decoder's learned prefix."""
    room = backbone.max_positions
    if config.method.name == "prefix" and (backbone.causal or backbone.seq2seq):
        room -= config.method.length
    asked = config.data.max_length
    if room < 1:
        raise InputError(
            f"method.length {config.method.length} leaves no room in the {backbone.max_positions} positions of "
            f"{backbone.ref!r}: lower it"
        )
    if (asked or 0) > room:
        raise InputError(f"data.max_length {asked} exceeds the {room} positions that {backbone.ref!r} leaves: lower it")
    return asked or room


def _labels(config: Config, known: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Class names in order, and the words or texts of each."""
    objective = config.objective
    if objective.type == "generation":
        return (), ()
    given = objective.labels
    if given is None:
        if known is None:
            if config.data.train is None:
                raise InputError("objective.labels is not set and there is no data.train to find the labels in: set it")
            rows = training_rows(config)
            with naming(config, "train"):
                known = infer_labels(rows, config.data.label).names
        given = list(known)
    words = given if isinstance(given, dict) else {name: name.replace("_", " ") for name in given}
    if len(words) < 2:
        raise InputError(f"objective.labels has {len(words)} label(s) ({', '.join(words)}): classification needs two")
    return tuple(words), tuple((w,) if isinstance(w, str) else tuple(w) for w in words.values())


def _label_vectors(backbone: Backbone, objective: Objective) -> jax.Array:
    """Unit vectors `[classes, embed]`: the mean over each label's texts, embedded without any prompt."""
    texts = [text for group in objective.words for text in group]
    encoded = [backbone.tokenizer(text)["input_ids"] for text in texts]
    length = max(map(len, encoded))
    ids, mask = (np.zeros((len(texts), length), np.int32) for _ in range(2))
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    hidden = backbone.hidden(ids, mask)
    at = np.zeros((len(texts), 1)) if objective.pool == "first" else mask.sum(1, keepdims=True) - 1
    inputs = Inputs(ids=jnp.asarray(ids), positions=jnp.asarray(ids), segments=jnp.asarray(mask))
    vectors = np.asarray(
        normalize(pool(objective.pool, hidden, inputs, jnp.asarray(at, jnp.int32), backbone.vocab_size))
    )
    ends = np.cumsum([len(group) for group in objective.words])[:-1]
    return normalize(jnp.stack([part.mean((0, 1)) for part in np.split(vectors, ends)]))


def training_rows(config: Config) -> list[dict]:
    """The training rows that the config asks for: the first N, or a few of each label drawn by the seed."""
    rows = _rows(config, "train")
    if config.data.per_label is None:
        return rows
    given = config.objective.labels if config.objective.type != "generation" else None
    with naming(config, "train"):
        labels = LabelSet(tuple(given)) if given else infer_labels(rows, config.data.label)
        numbers_of = by_label(rows, config.data.label, labels)
    rng = np.random.default_rng([config.seed, 7])
    few = config.data.per_label
    short = next((label for label, numbers in numbers_of.items() if len(numbers) < few), None)
    if short is not None:
        raise InputError(f"data.per_label is {few}, but label {short!r} has {len(numbers_of[short])} rows: lower it")
    chosen = [n for numbers in numbers_of.values() for n in rng.choice(numbers, few, replace=False)]
    return [rows[n] for n in sorted(chosen)]


@contextlib.contextmanager
def naming(config: Config, name: str) -> Iterator[None]:
    """Puts the file before an error in its rows."""
    try:
        yield
    except InputError as error:
        source = getattr(config.data, name)
        raise InputError(f"{source if isinstance(source, str) else f'data.{name}'}: {error}") from None


def validation_rows(config: Config) -> list[dict]:
    """The validation rows that the config asks for."""
    return _rows(config, "validation")


def _rows(config: Config, name: str) -> list[dict]:
    rows = read_rows(getattr(config.data, name), config.data.columns)
    return rows[: getattr(config.data, f"{name}_rows")]


def context_encoder(backbone: Backbone, prompt: Prompt) -> RowEncoder:
    """The encoder of a generation prompt's contexts: its template, up to the target."""
    return RowEncoder(
        parse_template(prompt.info["template"]),
        backbone.tokenizer,
        vocab_size=backbone.vocab_size,
        causal=backbone.causal,
        max_length=prompt.info["max_length"],
        objective="generation",
        start_id=backbone.config.start_id if backbone.seq2seq else None,
    )
