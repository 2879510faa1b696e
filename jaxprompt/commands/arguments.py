"""Arguments that several commands take."""

import argparse
from collections.abc import Sequence

from jaxprompt.config import USE_KEYS
from jaxprompt.machine.processes import TIMEOUT

MACHINE_HELP = f"where and how a RUN is computed and evaluated here: {', '.join(USE_KEYS)}"


def add_overrides(parser: argparse.ArgumentParser, help: str = "config keys set here, such as train.steps=500") -> None:
    """KEY=VALUE, any number of them."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=help)


def add_ensemble(parser: argparse.ArgumentParser) -> None:
    """Further prompts that answer with a run's."""
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        dest="prompts",
        metavar="PATH",
        help="a run or prompt file of the same backbone, template and labels that answers too; may be repeated (default: none)",
    )
    parser.add_argument(
        "--ensemble",
        choices=("mean", "vote"),
        help="how several prompts answer: by mean probabilities or by majority (default: mean; of a population without "
        "--prompt, all members answer if this is given, else the best)",
    )


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Texts, or a file of rows."""
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", action="append", metavar="TEXT", help="a text; may be repeated (default: none)")
    given.add_argument("--file", metavar="FILE", help="rows in .jsonl, .csv, .tsv or .parquet (default: none)")


def texts_of(args: argparse.Namespace) -> Sequence:
    """The texts that were given, or the rows: as a source, which puts its name before what is wrong with one of them."""
    if args.text is not None:
        return args.text
    from jaxprompt.data.sources import open_source

    return open_source(args.file)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Which of several processes this is, where no launcher says so."""
    group = parser.add_argument_group(
        "several processes", "found by themselves under SLURM, Open MPI, Kubernetes and Cloud TPU; else by hand:"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens (default: a lone process)")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are (default: a lone process)")
    group.add_argument("--process-id", type=int, metavar="I", help="which this is, from 0 (default: a lone process)")
    group.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        metavar="SECONDS",
        help="how long processes wait for one another before all of them end (default: %(default)g)",
    )
