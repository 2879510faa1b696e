"""`jaxprompt merge RUN`"""

from pathlib import Path

HELP = "write a model with a run's changes in its weights (full, LoRA, (IA)3, BitFit, norms), as any program reads it"


def add_arguments(parser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="a run folder, or a prompt file")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="a folder that is not there yet, needed (default: none)"
    )
    parser.add_argument("--model", metavar="MODEL", help="where the model is (default: where it was)")


def run(args) -> dict:
    from jaxprompt.inference.merge import merge

    return {"out": args.out, **merge(args.run_dir, Path(args.out), args.model)}


def lines(summary: dict) -> list[str]:
    return [f"{summary['out']}: {summary['changed']} of {summary['tensors']} tensors changed"]
