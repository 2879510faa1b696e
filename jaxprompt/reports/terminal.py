"""Progress and results on the terminal: rich where someone watches, plain lines otherwise."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaxprompt.machine.processes import is_first

# A table of more classes does not fit a terminal.
SHOWN_CLASSES = 10


class _Console(Console):
    """One that falls silent when no one reads it, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Reporter:
    """Shows a run: a live bar on a terminal, a line per log elsewhere. Everything goes to standard error.

    Of several processes the first alone shows anything.
    """

    def __init__(self, quiet: bool = False):
        quiet = quiet or not is_first()
        self._console = _Console(stderr=True, highlight=False, quiet=quiet, soft_wrap=not sys.stderr.isatty())
        self._progress = None
        self._task = None

    def say(self, message: str) -> None:
        """One line for the reader, if there is one: a run does not end because no one looks."""
        self._print(message)

    def _print(self, what: str | Table) -> None:
        try:
            self._console.print(what, markup=False)
        except OSError:
            self._console.quiet = True

    def start(self, total: int, done: int) -> None:
        """Begins the bar of a run of `total` steps, `done` of them already taken."""
        if self._console.is_terminal and not self._console.quiet:
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("", total=total, completed=done, figures="")
            self._progress.start()

    def log(self, record: dict, total: int) -> None:
        """Shows one record of the metrics file."""
        if "validation" in record:
            self.say(f"step {record['step']}: validation {figures(record['validation'])}")
        elif self._progress is not None:
            shown = f"{_loss(record)}  {record['examples_per_second']:.0f} examples/s"
            shown += f"  {record['target_tokens_per_second']:.0f} targets/s"
            self._progress.update(self._task, completed=record["step"], figures=shown)
        else:
            left = max(total - record["step"], 0) * record["step_seconds"]
            self.say(
                f"step {record['step']}/{total}  {_loss(record)}  "
                f"{record['examples_per_second']:.1f} examples/s  "
                f"{record['target_tokens_per_second']:.1f} targets/s  {left:.0f} s left"
            )

    def figures(self, summary: dict) -> None:
        """Shows what only the end of a run has: intervals, and a table of what was taken for what."""
        for name, (low, high) in summary.get("confidence", {}).items():
            self.say(f"  {name} {summary[name]:.4f} ({low:.4f} to {high:.4f})")
        found = summary.get("confusion")
        if found is not None and len(found["labels"]) <= SHOWN_CLASSES:
            table = Table("is, taken for", *found["labels"], box=None, header_style="")
            for label, row in zip(found["labels"], found["rows"], strict=True):
                table.add_row(label, *map(str, row))
            self._print(table)

    def members(self, summary: dict, first: str) -> None:
        """Shows what the members of a population came to, the best of which is marked.

        Args:
          first: the figure that chooses.
        """
        names = [name for name in dict.fromkeys((first, "loss", "train_loss", "best_step")) if name in summary]
        table = Table("member", *names, box=None, header_style="")
        for member, result in summary["members"].items():
            mark = " (best)" if member == summary["best_member"] else ""
            table.add_row(f"{member}{mark}", *(_shown(result[name]) for name in names))
        for kind in ("mean", "std"):
            table.add_row(kind, *(_shown(summary[kind].get(name)) for name in names))
        for member, reason in summary.get("failed", {}).items():
            table.add_row(f"{member} (given up)", reason)
        self._print(table)

    def stop(self) -> None:
        """Ends the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _loss(record: dict) -> str:
    skipped = f"  {record['skipped']} steps skipped (not finite)" if record.get("skipped") else ""
    return ("loss none" if record["loss"] is None else f"loss {record['loss']:.4f}") + skipped


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def figures(metrics: dict) -> str:
    """`accuracy 0.8120  loss 0.4310`: numbers for a line of text; what is no number is left out."""
    numbers = ((name, value) for name, value in metrics.items() if isinstance(value, int | float))
    return "  ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers
    )
