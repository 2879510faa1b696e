"""`jaxprompt methods`"""

HELP = "list the ways to learn a prompt: their papers, what is learned, and how many numbers that is for a model"


def add_arguments(parser) -> None:
    parser.add_argument(
        "--model", metavar="MODEL", help="a model, for which what is learned is counted (default: none)"
    )
    parser.add_argument(
        "--length", type=int, default=20, metavar="N", help="soft tokens, or keys (default: %(default)s)"
    )


def run(args) -> dict:
    from jaxprompt.errors import InputError
    from jaxprompt.methods import METHODS, listing

    if args.length < 1:
        raise InputError(f"--length {args.length}: give 1 or more")
    backbone = None
    if args.model is not None:
        from jaxprompt.backbone import load_backbone

        backbone = load_backbone(args.model)
    return {"methods": {name: listing(method, backbone, args.length) for name, method in METHODS.items()}}


def lines(summary: dict) -> list[str]:
    found = []
    for name, method in summary["methods"].items():
        found += [name, f"  {method['about']}", f"  learns {method['learns']}"]
        if "learned_numbers" in method:
            found.append(f"  {method['learned_numbers']:,} numbers are learned, {method['kept_numbers']:,} kept")
        if "refused" in method:
            found.append(f"  not of this length: {method['refused']}")
        found.append(f"  method.* {', '.join(method['options'])}" if method["options"] else "  no options")
    return found
