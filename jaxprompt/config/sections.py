"""What can be set: frozen, validated sections."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator


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
