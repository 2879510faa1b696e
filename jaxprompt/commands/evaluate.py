"""`jaxprompt evaluate RUN`"""

from jaxprompt.commands.arguments import MACHINE_HELP, add_ensemble, add_overrides, add_processes

HELP = "score a run's prompt, or several together, on its validation data or another file"


def add_arguments(parser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--data", metavar="FILE", help="labelled rows (default: the run's data.validation)")
    parser.add_argument(
        "--predictions", metavar="FILE", help="a line for each example (default: RUN/predictions.jsonl, without --data)"
    )
    add_ensemble(parser)
    add_overrides(parser, MACHINE_HELP)
    add_processes(parser)


def run(args) -> dict:
    from jaxprompt.inference.predict import evaluate_run

    how = {"overrides": args.overrides, "prompts": args.prompts, "ensemble": args.ensemble}
    return evaluate_run(args.run_dir, args.data, predictions=args.predictions, **how)


def lines(summary: dict) -> list[str]:
    from jaxprompt.reports.terminal import Reporter, figures

    Reporter().figures(summary)
    return [figures(summary)]
