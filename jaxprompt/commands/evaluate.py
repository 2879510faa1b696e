"""`jaxprompt evaluate RUN`"""

from jaxprompt.commands.arguments import MACHINE_HELP, add_overrides

HELP = "score a run's prompt on its validation data or another file"


def add_arguments(parser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--data", metavar="FILE", help="labelled rows (default: the run's data.validation)")
    parser.add_argument(
        "--predictions", metavar="FILE", help="a line for each example (default: RUN/predictions.jsonl, without --data)"
    )
    add_overrides(parser, MACHINE_HELP)


def run(args) -> dict:
    from jaxprompt.inference.predict import evaluate_run

    return evaluate_run(args.run_dir, args.data, overrides=args.overrides, predictions=args.predictions)


def lines(summary: dict) -> list[str]:
    from jaxprompt.reports.terminal import Reporter, figures

    Reporter().figures(summary)
    return [figures(summary)]
