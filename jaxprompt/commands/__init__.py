"""The command line: one file per command. The only place that prints or exits."""

import argparse
import importlib
import json
import sys

from jaxprompt.commands.process import prepare_process
from jaxprompt.errors import InputError

# Each is a module with HELP, `add_arguments(parser)` and `run(args) -> summary`, which imports what it needs when it runs.
COMMANDS = ("train", "evaluate", "predict", "generate", "quickstart")


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0, or 2 after bad input, or 130 when interrupted."""
    try:
        # Before anything imports JAX.
        prepare_process()
        args = _parsed(argv)
        summary = args.run(args)
    except InputError as error:
        print(f"jaxprompt: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxprompt: interrupted; the same command resumes a run from its last checkpoint", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(summary, ensure_ascii=False))
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports a bad command line as any other bad input: in one line."""

    def error(self, message: str):
        raise InputError(f"{message} (see {self.prog} --help)")


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # argparse takes positional arguments from one place only: KEY=VALUE behind an option comes back as unknown.
    if rest and (not hasattr(args, "overrides") or any(item.startswith("-") for item in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxprompt", description="Learn prompts for frozen pretrained language models, in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"jaxprompt.commands.{name}")
        sub = commands.add_parser(
            name, help=module.HELP, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(run=module.run)
        sub.add_argument("--json", action="store_true", help="print one JSON object as the last line (default: off)")
        module.add_arguments(sub)
    return parser
