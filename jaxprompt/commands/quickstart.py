"""`jaxprompt quickstart [intents|text]`"""

import importlib
from pathlib import Path

from jaxprompt.commands.arguments import add_overrides
from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.quickstart import QUICKSTARTS

HELP = "learn a prompt on data and a model that come as packages: intents (of questions) or text (descriptions)"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where to keep it (default: runs/quickstart, or runs/quickstart-text)"
    )
    add_overrides(parser, f"one of {', '.join(QUICKSTARTS)} (default: {QUICKSTARTS[0]}), and config keys set here")


def run(args) -> dict:
    from jaxprompt.reports.terminal import Reporter

    first, *rest = args.overrides or [QUICKSTARTS[0]]
    name, overrides = (QUICKSTARTS[0], args.overrides) if "=" in first else (first, rest)
    if name not in QUICKSTARTS:
        raise InputError(f"unknown quickstart {name!r}{did_you_mean(name, QUICKSTARTS)}")
    folder = args.run_dir or ("runs/quickstart" if name == QUICKSTARTS[0] else f"runs/quickstart-{name}")
    return importlib.import_module(f"jaxprompt.quickstart.{name}").run(Path(folder), Reporter(), overrides)


def lines(summary: dict) -> list[str]:
    return []  # the reporter has said all
