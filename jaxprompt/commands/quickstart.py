"""`jaxprompt quickstart`"""

from pathlib import Path

from jaxprompt.commands.arguments import add_overrides

HELP = "learn a prompt on the data and model that come with the package"


def add_arguments(parser) -> None:
    parser.add_argument("--run-dir", default="runs/quickstart", help="where to keep it (default: %(default)s)")
    add_overrides(parser)


def run(args) -> dict:
    from jaxprompt.quickstart import run
    from jaxprompt.reports.terminal import Reporter

    return run(Path(args.run_dir), Reporter(), args.overrides)


def lines(summary: dict) -> list[str]:
    return []  # the reporter has said all
