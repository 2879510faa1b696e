"""`jaxprompt similar RUN RUN ...`"""

from collections.abc import Iterator

HELP = "compare soft prompts, to find one to start from"


def add_arguments(parser) -> None:
    parser.add_argument("prompts", metavar="RUN", nargs="+", help="run folders or prompt files of one model")


def run(args) -> dict:
    from jaxprompt.prompts import load_prompt
    from jaxprompt.prompts.similarity import similarity

    found = similarity({name: load_prompt(name) for name in args.prompts})
    return {"prompts": args.prompts, "similarity": found.round(6).tolist()}


def lines(summary: dict) -> Iterator[str]:
    for name, row in zip(summary["prompts"], summary["similarity"], strict=True):
        others = sorted(zip(row, summary["prompts"], strict=True), reverse=True)
        yield f"{name}\t" + "  ".join(f"{value:.3f} {other}" for value, other in others if other != name)
