"""`jaxprompt data prepare`"""

from pathlib import Path

HELP = "write files of rows as a prepared set of tensorflow-datasets, of any size and read by number"


def add_arguments(parser) -> None:
    parser.add_argument("action", choices=["prepare"], help="what to do")
    parser.add_argument(
        "files", nargs="+", metavar="[SPLIT=]FILE", help="a file of rows, of the split train unless it says another"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="a folder that is not there yet, needed (default: none)"
    )
    parser.add_argument("--encoding", default="utf-8", help="of text files (default: %(default)s)")
    parser.add_argument("--columns", metavar="A,B", help="names of columns of files without a header (default: none)")
    parser.add_argument("--pattern", help="a line's regular expression with named groups (default: none)")


def run(args) -> dict:
    import re

    from jaxprompt.data.prepare import prepare
    from jaxprompt.data.sources import Reading, open_source
    from jaxprompt.reports.terminal import Reporter

    how = Reading(args.columns.split(",") if args.columns else None, args.encoding, pattern=args.pattern, lazy=True)
    splits: dict[str, list[str]] = {}
    for item in args.files:
        found = re.match(r"(?:(\w+)=)?(.*)", item, re.DOTALL)
        splits.setdefault(found[1] or "train", []).append(found[2])
    sources = {name: open_source(files, how) for name, files in splits.items()}
    return {"out": str(Path(args.out).absolute()), **prepare(sources, Path(args.out), Reporter().say)}


def lines(summary: dict) -> list[str]:
    return [f"tfds:{summary['out']}:{split}  {rows} rows" for split, rows in summary["rows"].items()]
