"""The command line: one file per command. The only place that prints or exits."""

import argparse
import importlib
import json
import signal
import sys

# Each is a module with HELP, `add_arguments(parser)`, `run(args) -> summary`, which imports what it needs when it runs,
# and `lines(summary)`, what standard output gets.
COMMANDS = (
    "train",
    "plan",
    "evaluate",
    "predict",
    "generate",
    "merge",
    "similar",
    "tasks",
    "methods",
    "data",
    "quickstart",
)
INTERRUPTED = "jaxprompt: interrupted; the same command resumes a run from its last checkpoint"


def command() -> None:
    """The process: one command, and its exit status."""
    status = main()
    from jaxprompt.machine.background import leave

    leave(status)


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns the exit status: 0, or 2 after bad input or a failed write, 128 + signal when interrupted, 1 when no one reads on.
    """
    try:
        # Little is imported before: whoever interrupts that is told no less.
        from jaxprompt.commands import process
        from jaxprompt.errors import InputError

        with process.interruptible():
            try:
                return _run(sys.argv[1:] if argv is None else argv)
            except InputError as error:
                process.tell(f"jaxprompt: error: {error}")
                return 2
            except BrokenPipeError:
                return 1
    except KeyboardInterrupt as error:  # or `machine.signals.Interrupted`, which says what was kept
        processes = sys.modules.get("jaxprompt.machine.processes")
        if processes is None or processes.is_first():
            print(f"jaxprompt: {error}" if str(error) else INTERRUPTED, file=sys.stderr)
        return 128 + getattr(error, "signal", signal.SIGINT)


def _run(argv: list[str]) -> int:
    from jaxprompt.commands import process

    # Before anything imports JAX.
    process.prepare_process(argv, verbose=any(item in ("-v", "--verbose") for item in argv))
    args = _parsed(argv)
    with process.among_others(args):
        summary = args.run(args)
        if process.is_heard():
            for line in args.lines(summary):
                process.put(line)
            if args.json:
                process.put(json.dumps(summary, ensure_ascii=False))
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports a bad command line as any other bad input: in one line."""

    def error(self, message: str):
        from jaxprompt.errors import InputError

        raise InputError(f"{message} (see {self.prog} --help)")


def _parsed(argv: list[str]) -> argparse.Namespace:
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
        sub.set_defaults(run=module.run, lines=module.lines)
        sub.add_argument("--json", action="store_true", help="print one JSON object as the last line (default: off)")
        sub.add_argument("-v", "--verbose", action="store_true", help="show what libraries say, too (default: off)")
        module.add_arguments(sub)
    return parser
