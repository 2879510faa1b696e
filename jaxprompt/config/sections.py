"""What can be set: frozen, validated sections. Where a table offers a choice, its entries bring their own options."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import Discriminator, Field, PositiveFloat, Tag

from jaxprompt.backbone.form import FORMS
from jaxprompt.methods import METHODS
from jaxprompt.objectives import OBJECTIVES
from jaxprompt.options import Options

# Beyond these nothing is meant, and arithmetic on them would take the machine's memory.
Count = Annotated[int, Field(gt=0, lt=2**31)]
BatchSize = Annotated[int, Field(gt=0, le=2**20)]


PROMPT_LENGTH = 20
# What a column may be compared with.
Label = str | bool | int | float


class Choice:
    """A section whose keys depend on the name that one of them holds.

    Attributes:
      key: the key that chooses.
      options: its values, and what each may set; the first is the default.
    """

    def __init__(self, key: str, *options: type[Options]):
        self.key = key
        self.options = {option.model_fields[key].default: option for option in options}
        self.default = next(iter(self.options))

    def name_of(self, value: Any) -> Any:
        """The chosen name in a section's plain values, or in its options."""
        if isinstance(value, Mapping):
            return value.get(self.key, self.default)
        return getattr(value, self.key, None)

    def section(self) -> Any:
        """The type of the field."""
        tagged = (Annotated[option, Tag(name)] for name, option in self.options.items())
        return Annotated[Union[tuple(tagged)], Discriminator(self.name_of)]  # noqa: UP007 (of a tuple)


class OptimizerOptions(Options):
    """What all optimizers have."""

    learning_rate: float = Field(0.01, ge=0, description="peak learning rate")
    rates: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="learning rates of groups by name (prompt, head) where they are not that one"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="decay to 0 over train.steps")
    warmup_steps: int = Field(
        0, ge=0, lt=2**31, description="steps of linear warm-up; the first of n has 1/n of the peak"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    clip_norm: PositiveFloat | None = Field(1.0, description="clip the gradient's global norm; null never clips")


class AdamWOptions(OptimizerOptions):
    name: Literal["adamw"] = Field("adamw", description="AdamW")
    b1: float = Field(0.9, ge=0, lt=1, description="first-moment decay")
    b2: float = Field(0.999, ge=0, lt=1, description="second-moment decay")


class AdafactorOptions(OptimizerOptions):
    # Lester et al. 2021 as released: nothing clips the gradient, and the decay is not multiplied by the rate.
    name: Literal["adafactor"] = Field("adafactor", description="the published prompt-tuning recipe")
    learning_rate: float = Field(0.3, ge=0, description="peak learning rate")
    weight_decay: float = Field(1e-5, ge=0, description="weight decay per step, whatever the learning rate")
    clip_norm: PositiveFloat | None = Field(None, description="clip the gradient's global norm; null never clips")


class SgdOptions(OptimizerOptions):
    name: Literal["sgd"] = Field("sgd", description="gradient descent with momentum")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum")


METHOD = Choice("name", *(method.Options for method in METHODS.values()))
OBJECTIVE = Choice("type", *(objective.Options for objective in OBJECTIVES.values()))
OPTIMIZER = Choice("name", AdamWOptions, AdafactorOptions, SgdOptions)


Share = Annotated[float, Field(ge=0, lt=1)]


class AugmentConfig(Options):
    columns: list[str] | None = Field(None, description="whose texts change; unset: all fields of the template")
    delete: Share = Field(0.0, description="probability of each word to be left out")
    swap: Share = Field(0.0, description="for this share of a text's words, two are swapped")
    insert: Share = Field(0.0, description="for this share of a text's words, a punctuation mark is inserted")
    mask: Share = Field(0.0, description="share of a text's words that is masked, in spans")
    span: Annotated[float, Field(ge=1)] = Field(3.0, description="mean length of a masked span, words")
    mask_text: str = Field("___", min_length=1, description="what stands for a masked span")
    alternatives: dict[str, list[str]] = Field(
        {}, description="column: columns with paraphrases or back-translations of it; an epoch takes one, or itself"
    )
    mixup: PositiveFloat | None = Field(
        None,
        description="mix embeddings and losses of two examples by shares from Beta(this, this); for a head or similarity",
    )
    templates: list[str] = Field([], description="other templates, of which an epoch takes one, or the template itself")


class DataConfig(Options):
    train: str | list[str] | list[dict[str, Any]] | None = Field(
        None,
        description="training rows: a .jsonl, .json, .csv, .tsv, .txt or .parquet file, also packed (.gz, .zst), a pattern such as "
        "part-*.jsonl, package:module/file, parallel:train.{en,de}, tfds:name/config:split, hf:name:split, a list of these, or dicts",
    )
    validation: str | list[str] | list[dict[str, Any]] | None = Field(None, description="validation rows, likewise")
    columns: list[str] | None = Field(None, description="column names of files without a header")
    encoding: str = Field("utf-8", description="of text files, such as latin-1")
    quotes: bool | None = Field(
        None, description="whether values of a table may be in quotes; unset: in a .csv, not in a .tsv, as in GLUE"
    )
    pattern: str | None = Field(
        None,
        description="regular expression of a line, whose named groups are the columns: any text file, a row per line",
    )
    rename: dict[str, str] = Field(
        {}, description="further columns: name: path, such as answers.text[0]; input[*] is a whole list as one text"
    )
    where: dict[str, Label | list[Label]] = Field(
        {}, description="only rows whose columns have these values: column: value, or a list"
    )
    dir: str | None = Field(None, description="folder of tensorflow-datasets' prepared sets; unset: TFDS_DATA_DIR")
    download: bool = Field(False, description="fetch and prepare a set of tensorflow-datasets that is not there")
    label: str = Field("label", description="column of the label, or of the number of a regression")
    target: str = Field("target", description="column of the target text (generation)")
    max_length: Count | None = Field(None, description="tokens per example; unset: what the backbone allows")
    train_rows: Count | None = Field(None, description="use only the first N training rows")
    validation_rows: Count | None = Field(None, description="use only the first N validation rows")
    holdout: Count | None = Field(None, description="in place of data.validation: the last N rows of data.train")
    per_label: Count | None = Field(None, description="few-shot: draw this many training rows of each label")
    shuffle: bool = Field(True, description="shuffle each epoch by the seed; false keeps the file's order")
    balance: bool = Field(True, description="shuffled batches of like numbers of tokens; false draws blindly")
    weights: list[PositiveFloat] | None = Field(
        None, description="shares of a batch of the files that data.train lists; unset: their rows are one set"
    )
    temperature: PositiveFloat | None = Field(
        None,
        description="in place of weights: rows of a file to the power of 1/this; 1 is in proportion, 10 nearly alike",
    )
    augment: AugmentConfig = AugmentConfig()
    stream: bool = Field(
        False, description="read training rows as they are needed, of .jsonl, .parquet and tfds: of any size"
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="processes that read and tokenise rows of a stream, or changed ones, ahead; 0: a thread"
    )
    packing: bool = Field(True, description="pack examples into shared rows; false puts each in a row of its own")
    ahead: bool | None = Field(
        None,
        description="compute text before an example's first soft token by itself, with no backward pass; unset: where it is "
        "most of the tokens",
    )
    cache: Literal["memory", "disk"] | None = Field(
        None, description="keep keys and values of that text, computed once: in the host's memory, or in the run folder"
    )
    share_prefix: bool = Field(True, description="compute a causal constant prefix once per step; false per example")


class TrainConfig(Options):
    steps: int = Field(1000, ge=0, lt=2**31, description="optimizer steps; 0 scores the prompt without training")
    batch_size: BatchSize = Field(32, description="examples per step; all of them where there are fewer")
    accumulate: BatchSize = Field(1, description="split each batch into this many parts, to save memory")
    eval_start: bool = Field(True, description="whether the prompt is also evaluated before the first step")
    eval_every: Count | None = Field(None, description="steps between evaluations; unset: ten in all")
    eval_batch_size: BatchSize | None = Field(None, description="examples per evaluation batch; unset: batch_size")
    metric: str | None = Field(
        None,
        description="the figure that chooses the best prompt; unset: the first of evaluation.metrics that needs no writing, "
        "else the objective's first (accuracy, loss, pearson)",
    )
    patience: Count | None = Field(None, description="stop after this many evaluations without improvement")
    max_bad_steps: Count = Field(
        10, description="stop after this many steps in a row whose loss or gradient is not finite; each is skipped"
    )
    log_every: Count = Field(10, description="steps between lines of metrics.jsonl")
    checkpoint_every: Count | None = Field(None, description="steps between checkpoints; unset: eval_every")
    keep_checkpoints: Count = Field(2, description="how many checkpoints to keep")
    remat: Literal["none", "dots", "full"] = Field(
        "dots", description="what the backward pass recomputes: nothing, all but matrix products, or every layer"
    )


class EvaluationConfig(Options):
    metrics: list[str] = Field([], description="figures beside the objective's own, such as f1, bleu or rougeL")
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="such as 0.95: intervals of the figures at the end, by resampling the examples"
    )
    examples: Count | None = Field(
        None, description="while training, write for the first N validation inputs only, if train.metric needs writing"
    )
    max_new_tokens: Count = Field(64, description="tokens written for an input, at most")
    num_beams: Count = Field(1, description="above 1: the width of a beam search")
    batch_size: BatchSize = Field(32, description="inputs written for at a time")


class MeshConfig(Options):
    data: int = Field(-1, description="devices over which batches are split; -1: all that are left")
    fsdp: Count = Field(1, description="devices over which batches and weights are split")
    tensor: Count = Field(1, description="devices over which heads, MLP and vocabulary are split")


class Turn(Options):
    role: str = Field(min_length=1, description="who speaks: system, user or assistant")
    content: str = Field(description="a template; {target} is the end of the last turn")


Seed = Annotated[int, Field(ge=0, lt=2**32)]


class SeedsConfig(Options):
    start: Seed | None = Field(None, description="seed of the prompt's start; unset: seed")
    data: Seed | None = Field(None, description="seed of the data's order and of few-shot draws; unset: seed")
    sampling: Seed | None = Field(None, description="seed of methods that draw at random while they train; unset: seed")


class Config(Options):
    # The sections whose keys depend on a choice.
    choices: ClassVar[dict[str, Choice]] = {"method": METHOD, "objective": OBJECTIVE, "optimizer": OPTIMIZER}

    model: str = Field(description="folder, hub id, or package:module/path of a Hugging Face model, or a .gguf file")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the frozen weights")
    quantize: Literal["int8", "int4"] | None = Field(
        None, description="keep the frozen weights of attention and MLP in so many bits"
    )
    attention: Literal["auto", "xla", "cudnn", "pallas"] = Field(
        "auto",
        description="how attention is computed: by XLA anywhere, by cuDNN on a GPU in 16 bits, by a kernel on a TPU; "
        "auto: by what is made for the machine, where it can",
    )
    matmul_precision: Literal["highest", "high", "default"] = Field(
        "highest",
        description="of products of float32 in the layers: highest is float32; the others are faster on a TPU or GPU",
    )
    unroll: bool | None = Field(
        None,
        description="layers one by one, not in a loop: faster, longer to compile; unset: in a loop but to generate text",
    )
    task: str | None = Field(
        None, description="a preset that gives what is left out, such as glue/sst2; `jaxprompt tasks` lists them"
    )
    form: Literal[FORMS] | None = Field(None, description="which form of the task; unset: that of the model")
    prompt_length: Count = Field(PROMPT_LENGTH, description="soft tokens in a task's template")
    tasks: dict[str, Any] | None = Field(
        None,
        description="several tasks in the same batches, each with a prompt of its own: name: the keys in which it differs "
        "(task, template, chat, method, objective, data, evaluation)",
    )
    template: str | None = Field(None, description='layout of an example, such as "{soft:20} {text} It was {target}"')
    chat: list[Turn] | None = Field(
        None,
        description="in place of template: turns {role, content}, laid out by the tokenizer's chat template; contents are "
        "templates, {target} the end of the last",
    )
    method: METHOD.section() = METHOD.options[METHOD.default]()
    objective: OBJECTIVE.section() = OBJECTIVE.options[OBJECTIVE.default]()
    data: DataConfig = DataConfig()
    optimizer: OPTIMIZER.section() = OPTIMIZER.options[OPTIMIZER.default]()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    mesh: MeshConfig = MeshConfig()
    seed: Seed = Field(0, description="seed of the start, the order of the data and sampling; seeds sets them apart")
    seeds: SeedsConfig = SeedsConfig()
    population: dict[str, list[Any]] = Field(
        {},
        description="learn several prompts at once, all combinations of the values of these keys: {seed: [0, 1], "
        "optimizer.learning_rate: [0.1, 0.3]}",
    )
    run_dir: str | None = Field(None, description="where the run is kept; unset: runs/NAME_OF_CONFIG")

    def seed_of(self, what: Literal["start", "data", "sampling"]) -> int:
        """The seed of one of the things that are drawn at random."""
        own = getattr(self.seeds, what)
        return self.seed if own is None else own


# What each of several tasks has for itself.
TASK_KEYS = ("task", "form", "prompt_length", "template", "chat", "method", "objective", "data", "evaluation")
# Where and how a run is computed, not what: these may differ when it is resumed or used.
MACHINE_KEYS = (
    "attention",
    "matmul_precision",
    "unroll",
    "train.remat",
    "data.workers",
    "data.cache",
    *(f"mesh.{axis}" for axis in MeshConfig.model_fields),
)
# What a finished run may be used with beyond those.
USE_KEYS = (*MACHINE_KEYS, *(f"evaluation.{key}" for key in EvaluationConfig.model_fields))
