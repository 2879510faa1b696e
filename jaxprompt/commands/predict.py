"""`jaxprompt predict RUN --text TEXT`"""

from collections.abc import Iterator

from jaxprompt.commands.arguments import MACHINE_HELP, add_ensemble, add_inputs, add_overrides, add_processes, texts_of

HELP = "answer with a run's prompt, or with several together"


def add_arguments(parser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="folder of a finished run")
    add_inputs(parser)
    add_ensemble(parser)
    add_overrides(parser, MACHINE_HELP)
    add_processes(parser)


def run(args) -> dict:
    from jaxprompt.inference.predict import predict_run

    how = {"overrides": args.overrides, "prompts": args.prompts, "ensemble": args.ensemble}
    return {"predictions": predict_run(args.run_dir, texts_of(args), **how)}


def lines(summary: dict) -> Iterator[str]:
    for answer in summary["predictions"]:
        confidence = f"{answer['probability']:.3f}\t" if "probability" in answer else ""
        yield f"{answer['prediction']}\t{confidence}{answer['input']}"
