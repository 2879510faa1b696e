"""The command line: `jaxprompt train|evaluate|predict|generate|quickstart`. The only place that prints or exits."""

import argparse
import json
import os
import sys
from pathlib import Path

from jaxprompt import config as configs
from jaxprompt import host
from jaxprompt.errors import InputError
from jaxprompt.report import Reporter, figures

MACHINE_HELP = f"where and how a RUN is computed here: {', '.join(configs.MACHINE_KEYS)}"


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0, or 2 after bad input, or 130 when interrupted."""
    try:
        args = _parsed(argv)
        _prepare_process()
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


def _prepare_process() -> None:
    """Keeps memory from step to step, and lets the next command load what this one compiles.

    JAX may have been told of a folder for that already.
    """
    # Before JAX: the threads that it starts would allocate from heaps of their own, which keep nothing.
    host.keep_freed_memory()
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(caches, "jaxprompt", "compiled")))
        # Bytes; what was not used for longest goes first.
        jax.config.update("jax_compilation_cache_max_size", 1 << 30)


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

    def command(name, run, help, **kwargs):
        sub = commands.add_parser(
            name, help=help, description=help, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON object as the last line (default: off)")
        return sub

    keys_help = "keys of a config:\n" + configs.help_text()
    train = command("train", _train, "learn a prompt; on an existing run folder, resume it", epilog=keys_help)
    train.add_argument("config", metavar="CONFIG.yaml", help="the experiment")
    _overrides(train)

    evaluate = command("evaluate", _evaluate, "score a run's prompt on its validation data or another file")
    evaluate.add_argument("run_dir", metavar="RUN", help="folder of a finished run")
    evaluate.add_argument("--data", metavar="FILE", help="labelled rows (default: the run's data.validation)")
    _overrides(evaluate, MACHINE_HELP)

    predict = command("predict", _predict, "answer with a run's prompt")
    predict.add_argument("run_dir", metavar="RUN", help="folder of a finished run")
    _inputs(predict)
    _overrides(predict, MACHINE_HELP)

    generate = command("generate", _generate, "continue texts with a decoder, with or without a learned prompt")
    generate.add_argument("source", metavar="RUN|MODEL", help="folder of a finished run, or a model reference")
    _inputs(generate)
    _overrides(generate, MACHINE_HELP)
    generate.add_argument("--dtype", default="float32", help="type of a MODEL's weights (default: %(default)s)")
    generate.add_argument(
        "--quantize", help="int8 or int4, for a MODEL's weights of attention and MLP (default: neither)"
    )
    generate.add_argument(
        "--max-new-tokens", type=int, default=64, help="tokens to write at most (default: %(default)s)"
    )
    generate.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    generate.add_argument("--top-k", type=int, help="sample among the k most likely tokens (default: all)")
    generate.add_argument("--top-p", type=float, help="sample within this probability mass (default: all)")
    generate.add_argument("--num-beams", type=int, default=1, help="width of a beam search (default: %(default)s)")
    generate.add_argument(
        "--length-penalty",
        type=float,
        default=1.0,
        help="beams compare by log-probability / length ** this (default: %(default)s)",
    )
    generate.add_argument(
        "--early-stopping", action="store_true", help="end when as many texts as beams are finished (default: off)"
    )
    generate.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: %(default)s)")
    generate.add_argument("--batch-size", type=int, default=8, help="texts at a time (default: %(default)s)")

    quickstart = command("quickstart", _quickstart, "learn a prompt on the data and model that come with the package")
    quickstart.add_argument("--run-dir", default="runs/quickstart", help="where to keep it (default: %(default)s)")
    _overrides(quickstart)
    return parser


def _overrides(parser, help: str = "config keys set here, such as train.steps=500") -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=help)


def _inputs(parser) -> None:
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", action="append", metavar="TEXT", help="a text; may be repeated (default: none)")
    given.add_argument("--file", metavar="FILE", help="rows in .jsonl, .csv, .tsv or .parquet (default: none)")


def _texts(args) -> list:
    if args.text is not None:
        return args.text
    from jaxprompt.data.sources import read_rows

    return read_rows(args.file)


def _train(args) -> dict:
    from jaxprompt.training.loop import train

    result = train(configs.load_config(args.config, args.overrides), reporter=Reporter())
    return {"run_dir": str(result.run_dir), **result.metrics}


def _evaluate(args) -> dict:
    from jaxprompt.prediction import evaluate_run

    summary = evaluate_run(args.run_dir, args.data, overrides=args.overrides)
    print(figures(summary))
    return summary


def _predict(args) -> dict:
    from jaxprompt.prediction import predict_run

    answers = predict_run(args.run_dir, _texts(args), overrides=args.overrides)
    for answer in answers:
        confidence = f"{answer['probability']:.3f}\t" if "probability" in answer else ""
        print(f"{answer['prediction']}\t{confidence}{answer['input']}")
    return {"predictions": answers}


def _generate(args) -> dict:
    from jaxprompt.prediction import generate_from

    texts = _texts(args)
    options = (
        *("dtype", "quantize", "overrides"),
        *("max_new_tokens", "temperature", "top_k", "top_p", "seed", "batch_size"),
        *("num_beams", "length_penalty", "early_stopping"),
    )
    written = generate_from(args.source, texts, **{name: getattr(args, name) for name in options})
    for text in written:
        print(text)
    return {"generations": written}


def _quickstart(args) -> dict:
    from jaxprompt.quickstart import run

    return run(Path(args.run_dir), Reporter(), args.overrides)


if __name__ == "__main__":
    sys.exit(main())
