"""The main job on data and a model that come as packages: no files to find, no network."""

from collections.abc import Sequence
from pathlib import Path

from jaxprompt.config import load_config
from jaxprompt.experiment.build import build, configured_backbone
from jaxprompt.experiment.data import encoded_validation
from jaxprompt.experiment.rows import validation_rows
from jaxprompt.inference.predict import predict
from jaxprompt.inference.score import score
from jaxprompt.prompts import FILE_NAME, Prompt
from jaxprompt.reports.terminal import Reporter
from jaxprompt.training.loop import train

CONFIG = Path(__file__).parent / "banking77.yaml"

QUESTIONS = (
    "I was robbed of my wallet on the train, what now?",
    "How many dollars do I get for my euros?",
    "The machine swallowed my card and would not give it back",
    "Why is there a fee on the money I sent to my brother?",
    "Can my daughter have an account with you?",
)


def run(run_dir: Path, reporter: Reporter, overrides: Sequence[str] = ()) -> dict:
    """Learns a prompt for banking77, compares it with no prompt and the majority class, answers sample questions.

    Args:
      run_dir: where the run is kept; the same folder again resumes it, or shows it once it is finished.
      overrides: `key=value` changes to the config beside this file.

    Returns:
      The run's metrics, `no_prompt_accuracy` and `predictions`.
    """
    config = load_config(CONFIG, [f"run_dir={run_dir}", *overrides])
    reporter.say(
        f"banking77: questions of bank customers in 77 intents (PolyAI, CC BY 4.0). The model is frozen; a "
        f"{config.method.name} of {config.method.length} is learned in {config.train.steps} steps of "
        f"{config.train.batch_size} questions, a short schedule for two CPU cores."
    )
    backbone = configured_backbone(config)
    result = train(config, backbone=backbone, reporter=reporter)

    reporter.say("scoring the same model without the prompt ...")
    bare = build(load_config(config, {"method": {"name": "none"}}), backbone)
    examples = encoded_validation(bare, validation_rows(bare.config))
    no_prompt = score(bare, Prompt(), examples).metrics(bare.objective.metrics)["accuracy"]
    answers = predict(build(config, backbone), result.prompt, QUESTIONS)
    metrics = {**result.metrics, "no_prompt_accuracy": no_prompt, "predictions": answers}

    reporter.say(f"\nvalidation accuracy on {metrics['examples']} questions")
    for name, value in (
        ("majority class", metrics["majority_accuracy"]),
        ("without the prompt", no_prompt),
        ("with the learned prompt", metrics["accuracy"]),
    ):
        reporter.say(f"  {name:<24} {value:.3f}")
    reporter.say("\nsample questions")
    for answer in answers:
        reporter.say(f"  {answer['input']}\n    -> {answer['prediction']} ({answer['probability']:.2f})")
    reporter.say(f"\nthe prompt is saved in {result.run_dir / FILE_NAME}; ask it more with")
    reporter.say(f'  jaxprompt predict {result.run_dir} --text "My top-up did not arrive"')
    return metrics
