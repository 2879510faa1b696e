"""A small instruction-tuned model learns to describe restaurants: before, by examples in its text, and by a learned prompt."""

import json
from collections.abc import Sequence
from pathlib import Path

from jaxprompt.backbone import Backbone
from jaxprompt.config import Config, load_config
from jaxprompt.experiment.build import build, configured_backbone
from jaxprompt.experiment.figures import figures_of
from jaxprompt.experiment.final import PREDICTIONS
from jaxprompt.experiment.rows import training_rows, validation_rows
from jaxprompt.experiment.writing import Inputs, write_for
from jaxprompt.prompts import FILE_NAME
from jaxprompt.reports.terminal import Reporter
from jaxprompt.training.loop import train
from jaxprompt.types import Conditioning

CONFIG = Path(__file__).parent / "e2e.yaml"
# So many training rows are shown as turns of the chat, and so many answers to the reader.
SHOTS, SHOWN = 3, 3


def run(run_dir: Path, reporter: Reporter, overrides: Sequence[str] = ()) -> dict:
    """Learns a prompt for E2E's restaurants and compares it with a fixed instruction and with examples in the text.

    Args:
      run_dir: where the run is kept; the same folder again resumes it, or shows it once it is finished.
      overrides: `key=value` changes to the config beside this file.

    Returns:
      The run's metrics; `baselines`, the figures of the instruction and of the examples; and `answers`, what each wrote for
      the first inputs.
    """
    config = load_config(CONFIG, [f"run_dir={run_dir}", *overrides])
    reporter.say(
        "e2e: restaurants described from fields (Novikova et al. 2017, CC BY-SA 4.0). The model, SmolLM2-135M-Instruct, is "
        f"frozen; 20 soft tokens that start as its instruction are learned in {config.train.steps} steps of "
        f"{config.train.batch_size} descriptions."
    )
    backbone = configured_backbone(config)
    written, figures = {}, {}
    for name, turns in (("instruction", _instruction(config)), (f"{SHOTS} examples", _examples(config))):
        reporter.say(f"writing by the {name} ...")
        written[name], figures[name] = _by_text(config, turns, backbone)
    result = train(config, backbone=backbone, reporter=reporter)
    lines = (result.run_dir / PREDICTIONS).read_text(encoding="utf-8").splitlines()
    learned = [json.loads(line) for line in lines[:SHOWN]]

    names = config.evaluation.metrics
    rows = {**figures, "learned prompt": {name: result.metrics[name] for name in names}}
    reporter.say(
        f"\n{result.metrics['inputs']} inputs that it has not seen    " + "  ".join(f"{name:>6}" for name in names)
    )
    for name, found in rows.items():
        reporter.say(f"  {name:<32} " + "  ".join(f"{found[metric]:6.1f}" for metric in names))
    answers, inputs = [], validation_rows(config)
    for at, line in enumerate(learned):
        answers.append({"input": inputs[line["row"] - 1]["mr"]})
        answers[-1] |= {name: texts[at] for name, texts in written.items()} | {"learned prompt": line["prediction"]}
        reporter.say("\n" + "\n".join(f"  {name + ':':<16} {text}" for name, text in answers[-1].items()))
    reporter.say(f"\nthe prompt is saved in {result.run_dir / FILE_NAME}; ask it more with")
    reporter.say(f'  jaxprompt predict {result.run_dir} --text "name[The Swan], eatType[pub], area[riverside]"')
    return {**result.metrics, "baselines": figures, "answers": answers}


def _instruction(config: Config) -> list[dict]:
    """The chat with the learned tokens' start, as text, in their place."""
    user, assistant = (turn.model_dump() for turn in config.chat)
    return [{**user, "content": user["content"].replace("{soft:20}", config.method.init.text)}, assistant]


def _examples(config: Config) -> list[dict]:
    """The same behind turns that show the first training rows."""
    user, assistant = _instruction(config)
    rows = training_rows(config)
    # One description of each of the first inputs.
    shown = {row["mr"]: row for row in reversed(rows[: 2 * SHOTS + 2])}
    turns = []
    for row in list(reversed(shown.values()))[:SHOTS]:
        asked = user["content"].replace("{mr}", row["mr"].replace("{", "{{").replace("}", "}}"))
        turns += [{**user, "content": asked}, {**assistant, "content": row["ref"]}]
    return [*turns, user, assistant]


def _by_text(config: Config, turns: list[dict], backbone: Backbone) -> tuple[list[str], dict[str, float]]:
    """What the model writes behind a chat without a learned prompt, and its figures."""
    tree = {key: value for key, value in config.model_dump().items() if key != "method"}
    bare = load_config({**tree, "chat": turns, "method": {"name": "none"}})
    experiment = build(bare, backbone)
    inputs = Inputs.of(experiment, validation_rows(bare))
    texts = write_for(experiment, Conditioning(), inputs)
    figures = figures_of(bare, experiment.objective)
    return texts, {metric.name: metric(texts, inputs.references) for metric in figures.texts}
