"""The experiment: frozen, validated sections; a YAML file plus dotted overrides."""

import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from jaxprompt.errors import InputError, did_you_mean


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class InitConfig(Section):
    type: Literal["vocab", "labels", "text", "uniform", "normal", "zero", "file"] = Field(
        "vocab", description="start from sampled vocabulary, label words, a text, random numbers, zero values or a file"
    )
    text: str | None = Field(None, description="the text to start from (type text)")
    path: str | None = Field(None, description="a prompt file, run folder or .npy array (type file)")
    scale: float | None = Field(
        None, ge=0, description="half-width or standard deviation of a random start; unset: the usual one of its type"
    )
    top_k: PositiveInt = Field(5000, description="sample among this many of the most frequent tokens (type vocab)")

    @model_validator(mode="after")
    def _needs(self):
        for kind in ("text", "file"):
            name = "text" if kind == "text" else "path"
            if self.type == kind and not getattr(self, name):
                raise ValueError(f"type {kind!r} needs {name}")
        return self


class MethodConfig(Section):
    name: Literal["soft", "prefix", "none"] = Field(
        "soft", description="soft tokens in the template, a learned prefix of keys and values, or no prompt"
    )
    length: PositiveInt = Field(16, description="keys per layer (prefix); soft prompts take theirs from the template")
    init: InitConfig = Field(InitConfig(), description="where the prompt starts")


class ObjectiveConfig(Section):
    type: Literal["generation", "verbalizer", "classifier", "similarity"] = Field(
        "generation",
        description="score a target text, label words, a classification head, or similarity to label texts",
    )
    labels: dict[str, str | list[str]] | list[str] | None = Field(
        None, description="label names, or label name: word or words; unset: the names found in the training file"
    )
    pool: Literal["mean", "first", "last"] | None = Field(
        None, description="how hidden states become one vector; unset: mean for encoders, last for decoders"
    )
    temperature: float = Field(0.05, gt=0, description="cosine similarities are divided by this (similarity)")

    @field_validator("labels", mode="before")
    @classmethod
    def _names_are_text(cls, value):
        # YAML reads the label names 0 and yes as a number and a boolean.
        if isinstance(value, Mapping):
            return {_text(k): [_text(w) for w in v] if isinstance(v, list) else _text(v) for k, v in value.items()}
        return [_text(v) for v in value] if isinstance(value, list | tuple) else value


class DataConfig(Section):
    train: str | list[dict[str, Any]] | None = Field(
        None,
        description="training rows: a .jsonl, .json, .csv, .tsv or .parquet file, package:module/file, or dicts",
    )
    validation: str | list[dict[str, Any]] | None = Field(None, description="validation rows, likewise")
    columns: list[str] | None = Field(None, description="column names of files without a header")
    label: str = Field("label", description="column of the label")
    target: str = Field("target", description="column of the target text (generation)")
    max_length: PositiveInt | None = Field(None, description="tokens per example; unset: what the backbone allows")
    train_rows: PositiveInt | None = Field(None, description="use only the first N training rows")
    validation_rows: PositiveInt | None = Field(None, description="use only the first N validation rows")
    per_label: PositiveInt | None = Field(None, description="few-shot: draw this many training rows of each label")
    shuffle: bool = Field(True, description="shuffle each epoch by the seed; false keeps the file's order")
    balance: bool = Field(True, description="shuffled batches of like numbers of tokens; false draws blindly")
    packing: bool = Field(True, description="pack examples into shared rows; false puts each in a row of its own")
    share_prefix: bool = Field(True, description="compute a causal constant prefix once per step; false per example")


class OptimizerConfig(Section):
    name: Literal["adamw", "adafactor", "sgd"] = Field(
        "adamw", description="adafactor is the published prompt-tuning recipe; use it with learning_rate 0.3"
    )
    learning_rate: float = Field(0.01, ge=0, description="peak learning rate of the prompt")
    head_learning_rate: float | None = Field(None, ge=0, description="of the head; unset: the same")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="decay to 0 over train.steps")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay; the published adafactor uses 1e-5")
    clip_norm: float | None = Field(1.0, gt=0, description="clip the gradient's global norm; null never clips")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    b1: float = Field(0.9, ge=0, lt=1, description="first-moment decay of adamw")
    b2: float = Field(0.999, ge=0, lt=1, description="second-moment decay of adamw")


class TrainConfig(Section):
    steps: int = Field(1000, ge=0, description="optimizer steps; 0 scores the prompt without training")
    batch_size: PositiveInt = Field(32, description="examples per step")
    accumulate: PositiveInt = Field(1, description="split each batch into this many parts, to save memory")
    eval_start: bool = Field(True, description="whether the prompt is also evaluated before the first step")
    eval_every: PositiveInt | None = Field(None, description="steps between evaluations; unset: ten in all")
    eval_batch_size: PositiveInt | None = Field(None, description="examples per evaluation batch; unset: batch_size")
    patience: PositiveInt | None = Field(None, description="stop after this many evaluations without improvement")
    log_every: PositiveInt = Field(10, description="steps between lines of metrics.jsonl")
    checkpoint_every: PositiveInt | None = Field(None, description="steps between checkpoints; unset: eval_every")
    keep_checkpoints: PositiveInt = Field(2, description="how many checkpoints to keep")
    remat: Literal["none", "dots", "full"] = Field(
        "dots", description="what the backward pass recomputes: nothing, all but matrix products, or every layer"
    )


class MeshConfig(Section):
    data: int = Field(-1, description="devices over which batches are split; -1: all that are left")
    fsdp: PositiveInt = Field(1, description="devices over which batches and weights are split")
    tensor: PositiveInt = Field(1, description="devices over which heads, MLP and vocabulary are split")


class Config(Section):
    model: str = Field(description="folder, hub id, or package:module/path of a Hugging Face model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the frozen weights")
    quantize: Literal["int8", "int4"] | None = Field(
        None, description="keep the frozen weights of attention and MLP in so many bits"
    )
    attention: Literal["xla", "cudnn"] = Field(
        "xla", description="how attention is computed: by XLA anywhere, or by cuDNN on a GPU in 16 bits"
    )
    unroll: bool | None = Field(
        None,
        description="layers one by one, not in a loop: faster, longer to compile; unset: on a GPU with all weights",
    )
    template: str = Field(description='layout of an example, such as "{soft:20} {text} It was {target}"')
    method: MethodConfig = MethodConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the start, the order of the data and sampling")
    run_dir: str | None = Field(None, description="where the run is kept; unset: runs/NAME_OF_CONFIG")


# Where and how a run is computed, not what: these may differ when it is resumed or used.
MACHINE_KEYS = ("attention", "unroll", "train.remat", *(f"mesh.{axis}" for axis in MeshConfig.model_fields))


def _text(value) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def load_config(source: str | Path | Mapping | Config, overrides: Mapping[str, Any] | list[str] = ()) -> Config:
    """Reads and validates a config.

    Args:
      source: a YAML file, a mapping, or a Config.
      overrides: `["train.steps=10", ...]`, or a mapping of dotted keys or of nested sections.

    Raises:
      InputError: an unknown key, a wrong type or an impossible value, naming the key and the nearest valid one.
    """
    if isinstance(source, Config):
        tree = source.model_dump(mode="json", exclude_unset=True)
    elif isinstance(source, Mapping):
        tree = _copy(source)
    else:
        tree = _read_yaml(Path(source))
        if tree.get("run_dir") is None:
            tree["run_dir"] = str(Path("runs") / Path(source).stem)
    if isinstance(overrides, Mapping):
        pairs = [(key, value) for name, item in overrides.items() for key, value in _flatten(name, item)]
    else:
        pairs = [_parse_override(item) for item in overrides]
    for key, value in pairs:
        _assign(tree, key, value)
    _check_keys(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_one_line(error)) from None


def keys(section: type[BaseModel] = Config, before: str = "") -> dict[str, Any]:
    """All dotted keys of a section, in order, with their pydantic fields."""
    found = {}
    for name, field in section.model_fields.items():
        inner = _section_of(field)
        if inner is not None:
            found.update(keys(inner, f"{before}{name}."))
        else:
            found[before + name] = field
    return found


def flat(config: Config) -> dict[str, Any]:
    """All dotted keys of a config with their values."""
    found = {}
    for key in keys():
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        found[key] = value
    return found


def help_text() -> str:
    """One line per key: its type, default and meaning."""
    lines = []
    for key, field in keys().items():
        kind = _type_name(field.annotation)
        default = "required" if field.is_required() else f"default {yaml_value(field.default)}"
        lines.append(f"  {key} ({kind}, {default})\n      {field.description}")
    return "\n".join(lines)


def yaml_value(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).strip().removesuffix("...").strip()


def dump(config: Config) -> str:
    """The config as YAML, every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _section_of(field) -> type[BaseModel] | None:
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) else None


def _type_name(annotation) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    if origin is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_name(a) for a in typing.get_args(annotation) if a is not type(None)))
    if origin is not None:
        return {list: "list", dict: "mapping"}.get(origin, str(annotation))
    return {"str": "text", "int": "integer", "float": "number", "bool": "true|false"}.get(annotation.__name__, "")


def _read_yaml(path: Path) -> dict:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise InputError(f"config {str(path)!r} does not exist{did_you_mean(path.name, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        place = f" line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        problem = getattr(error, "problem", None) or "malformed"
        raise InputError(f"config {str(path)!r}{place} is not YAML: {problem}; quote texts that hold {{ or :") from None
    if not isinstance(tree, dict):
        raise InputError(f"config {str(path)!r} is empty or not a mapping: it needs at least model and template")
    return tree


def _parse_override(item: str) -> tuple[str, Any]:
    key, equals, value = item.partition("=")
    if not equals:
        raise InputError(f"override {item!r} is not of the form key=value")
    field = keys().get(key)
    if field is not None and str in (field.annotation, *typing.get_args(field.annotation)):
        # A text stays as it is typed: `{soft:20} {text}` is no YAML mapping. Lists of rows are for the Python API.
        return key, None if value == "null" else value
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"override {item!r}: the value is not YAML") from None


def _flatten(name: str, item) -> list[tuple[str, Any]]:
    if isinstance(item, BaseModel):
        item = item.model_dump(exclude_unset=True)
    field = Config.model_fields.get(name.split(".")[0])
    is_section = "." not in name and field is not None and _section_of(field) is not None
    if is_section and isinstance(item, Mapping):
        # `init` is the one section inside a section.
        return [
            pair
            for key, value in item.items()
            for pair in (
                [(f"{name}.init.{k}", v) for k, v in value.items()]
                if (name, key) == ("method", "init") and isinstance(value, Mapping)
                else [(f"{name}.{key}", value)]
            )
        ]
    return [(name, item)]


def _assign(tree: dict, key: str, value) -> None:
    *sections, last = key.split(".")
    for name in sections:
        if not isinstance(tree.setdefault(name, {}), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value


def _copy(tree):
    if isinstance(tree, BaseModel):
        tree = tree.model_dump(exclude_unset=True)
    return {key: _copy(value) if isinstance(value, Mapping | BaseModel) else value for key, value in tree.items()}


def _check_keys(tree: dict, section: type[BaseModel] = Config, before: str = "") -> None:
    for name, value in tree.items():
        key = f"{before}{name}"
        field = section.model_fields.get(name)
        if field is None:
            same_leaf = [k for k in keys() if k.split(".")[-1] == str(name)]
            hint = f" (did you mean {same_leaf[0]!r}?)" if same_leaf else did_you_mean(key, list(keys()))
            raise InputError(f"unknown config key {key!r}{hint}")
        inner = _section_of(field)
        if inner is not None:
            if not isinstance(value, Mapping):
                options = ", ".join(f"{key}.{n}" for n in inner.model_fields)
                raise InputError(f"config key {key!r} is a section, not {value!r}: set {options}")
            _check_keys(value, inner, key + ".")


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    parts = [str(p) for p in first["loc"]]
    known = keys()
    key = next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), ".".join(parts))
    if first["type"] == "missing":
        return f"config lacks {key!r}: {known[key].description}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if first["type"] == "literal_error":
        options = typing.get_args(known[key].annotation)
        options = [o for option in options for o in (typing.get_args(option) or (option,)) if o is not type(None)]
        return f"config key {key!r} has the value {first['input']!r}{did_you_mean(first['input'], options)}"
    value = first["input"]
    shown = "" if isinstance(value, BaseModel | dict) else f" has the value {value!r}"
    return f"config key {key!r}{shown}: {message}"
