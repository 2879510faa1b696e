"""`jaxprompt generate RUN|MODEL --text TEXT`"""

from jaxprompt.commands.arguments import MACHINE_HELP, add_inputs, add_overrides, add_processes, texts_of

HELP = "continue texts with a decoder, with or without a learned prompt"
# Name, type, default and help of the options that `generate_from` takes by the same names.
OPTIONS = (
    ("dtype", str, "float32", "type of a MODEL's weights (default: %(default)s)"),
    ("quantize", str, None, "int8 or int4, for a MODEL's weights of attention and MLP (default: neither)"),
    ("max_new_tokens", int, 64, "tokens to write at most (default: %(default)s)"),
    ("temperature", float, 0.0, "0 is greedy (default: %(default)s)"),
    ("top_k", int, None, "sample among the k most likely tokens (default: all)"),
    ("top_p", float, None, "sample within this probability mass (default: all)"),
    ("num_beams", int, 1, "width of a beam search (default: %(default)s)"),
    ("length_penalty", float, 1.0, "beams compare by log-probability / length ** this (default: %(default)s)"),
    ("seed", int, 0, "seed of the sampling (default: %(default)s)"),
    ("batch_size", int, 8, "texts at a time (default: %(default)s)"),
)


def add_arguments(parser) -> None:
    parser.add_argument("source", metavar="RUN|MODEL", help="folder of a finished run, or a model reference")
    add_inputs(parser)
    add_overrides(parser, MACHINE_HELP)
    add_processes(parser)
    for name, kind, default, help in OPTIONS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=help)
    parser.add_argument(
        "--early-stopping", action="store_true", help="end when as many texts as beams are finished (default: off)"
    )


def run(args) -> dict:
    from jaxprompt.inference.predict import generate_from

    options = {name: getattr(args, name) for name, *_ in OPTIONS}
    written = generate_from(
        args.source, texts_of(args), overrides=args.overrides, early_stopping=args.early_stopping, **options
    )
    return {"generations": written}


def lines(summary: dict) -> list[str]:
    return summary["generations"]
