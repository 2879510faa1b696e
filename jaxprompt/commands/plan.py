"""`jaxprompt plan CONFIG.yaml [KEY=VALUE ...]`"""

import contextlib
import re

from jaxprompt.commands.arguments import add_overrides

HELP = "say what training a config takes of each of many devices, and on which mesh least: without weights or devices"
EPILOG = """\
Nothing runs, and no weight is read: the train step is compiled for devices that are not here, and the program is read. For
an H100 that is done by its description (pip install "jax[cuda12]"), for a TPU by libtpu (pip install
"jaxprompt[tpu]"); where neither is installed, or with --simulate, for CPU devices in their place, whose program has the
same weights, batches, activations and exchanges, and more temporary memory: float16 stands for bfloat16, and every product
is widened to float32.

The meshes that make sense are those whose data x fsdp divides the examples computed at once, whose fsdp divides the
model's width and whose tensor divides its heads. Each is estimated by shapes alone; those of least estimated time are
compiled. The evaluation step is compiled too where it has more tokens than the train step. What is written while training
(evaluation.metrics such as bleu) is not planned.

Rows are those of the data, in the row shapes of `jaxprompt train`, the largest of the first 16 batches. Where the data cannot
be read here, or with --rows and --tokens, they are made up: train.batch_size examples of data.max_length tokens (unset:
all that the model has positions for), each in a row of its own, half of what is behind the prompt a target.

Times are the least that a step can take at the chip's published speeds: of its kernels, by their products and what they
move in memory, and of what is sent to other devices by a link's speed. They are no measurement, and no promise.
The mesh of which both together are least is proposed."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def add_arguments(parser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("config", metavar="CONFIG.yaml", help="the experiment")
    add_overrides(parser)
    parser.add_argument("--devices", type=int, metavar="N", help="how many (default: those of --topology)")
    parser.add_argument("--target", default="h100", metavar="CHIP", help="h100, v5e, v6e or v5p (default: %(default)s)")
    parser.add_argument("--topology", metavar="AxB", help="of TPUs, such as 16x16 (default: the smallest that has N)")
    parser.add_argument("--simulate", action="store_true", help="compile for CPU devices in any case (default: off)")
    parser.add_argument("--memory", metavar="BYTES", help="of a device, such as 80GB or 75GiB (default: the chip's)")
    parser.add_argument("--flops", type=float, metavar="N", help="per second, of products (default: the chip's)")
    parser.add_argument("--bandwidth", type=float, metavar="N", help="of its memory, bytes/s (default: the chip's)")
    parser.add_argument("--link", type=float, metavar="N", help="sent to other devices, bytes/s (default: the chip's)")
    parser.add_argument("--mesh", metavar="DxFxT", help="plan this mesh alone: data x fsdp x tensor (default: all)")
    parser.add_argument(
        "--compile",
        type=int,
        default=3,
        metavar="N",
        help="meshes to compile; where none fits, twice as many (default: 3)",
    )
    parser.add_argument("--all", action="store_true", help="compile every mesh that makes sense (default: off)")
    parser.add_argument("--rows", type=int, metavar="N", help="make up rows: so many computed at once")
    parser.add_argument("--tokens", type=int, metavar="N", help="and of so many tokens, those that all share left out")


def run(args) -> dict:
    import dataclasses

    import jax

    from jaxprompt import config as configs
    from jaxprompt.errors import InputError, did_you_mean
    from jaxprompt.machine.targets import TARGETS, chips_of, devices_of, missing_compiler, simulated
    from jaxprompt.reports.terminal import Reporter
    from jaxprompt.training.plan import Devices, plan, subject

    if args.target not in TARGETS:
        raise InputError(f"no target {args.target!r}{did_you_mean(args.target, TARGETS)}")
    for name in ("devices", "flops", "bandwidth", "link", "compile", "rows", "tokens"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name} {value}: give a positive number")
    config, target = configs.load_config(args.config, args.overrides), TARGETS[args.target]
    if args.topology is not None and target.platform != "tpu":
        raise InputError(f"--topology {args.topology!r} is of TPUs: leave it out, or name --target v5e, v6e or v5p")
    if args.devices is None and args.topology is None:
        raise InputError("how many devices? give --devices N (or --topology, of TPUs)")
    count = args.devices or chips_of(args.topology)
    if args.flops is not None:
        target = dataclasses.replace(target, products={"bf16": args.flops})
    given = {name: getattr(args, name) for name in ("bandwidth", "link") if getattr(args, name) is not None}
    target = dataclasses.replace(target, **given)
    limit = target.memory if args.memory is None else _bytes(args.memory)
    only = None if args.mesh is None else _mesh(args.mesh, count)
    needs = None if args.simulate else missing_compiler(target)
    stands_in, reporter = args.simulate or needs is not None, Reporter()
    if needs is not None:
        reporter.say(f"{needs} is not installed: compiling for CPU devices in the place of {target.name}s")
    with contextlib.suppress(RuntimeError):  # where JAX has looked for its devices already
        jax.config.update("jax_platforms", "cpu")
    with contextlib.ExitStack() as stack:
        # A program for devices that are not here cannot be loaded again.
        stack.callback(jax.config.update, "jax_enable_compilation_cache", jax.config.jax_enable_compilation_cache)
        jax.config.update("jax_enable_compilation_cache", False)
        if stands_in:
            devices, config = simulated(count), _for_cpu(config)
        else:
            devices = stack.enter_context(devices_of(args.target, args.topology, count))
        planned = subject(config, devices[0], args.rows, args.tokens)
        where = Devices(devices, target, limit, stands_in)
        return plan(planned, where, only, None if args.all else args.compile, reporter.say)


def _for_cpu(config):
    """A config as CPU devices can stand for others."""
    # A CPU's compiler widens whatever is in bfloat16, weights too; float16 it leaves as it is, and that is as large.
    dtype = "float16" if config.dtype == "bfloat16" else config.dtype
    return config.model_copy(update={"dtype": dtype, "attention": "xla"})


def _bytes(text: str) -> float:
    from jaxprompt.errors import InputError

    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?) ?([kmgt]i?)?b?", text.strip(), re.IGNORECASE)
    if found is None or not float(found[1]):
        raise InputError(f"--memory {text!r}: give bytes, such as 80GB, 75GiB or 80e9")
    return float(found[1]) * _UNITS[(found[2] or "").lower()]


def _mesh(text: str, count: int) -> tuple[int, int, int]:
    from jaxprompt.errors import InputError

    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", text)
    sizes = tuple(map(int, found.groups())) if found else ()
    if len(sizes) != 3 or sizes[0] * sizes[1] * sizes[2] != count:
        raise InputError(
            f"--mesh {text!r}: give data x fsdp x tensor that multiply to {count} devices, such as 1x{count}x1"
        )
    return sizes


def lines(summary: dict) -> list[str]:
    batch, limit = summary["batch"], summary["memory"]
    shape = f"{batch['rows']} rows of {batch['row_tokens']} tokens"
    shape += f" (encoder {batch['source_tokens']})" if batch["source_tokens"] else ""
    shape += f", {batch['accumulated']} times" if batch["accumulated"] > 1 else ""
    compiled = "CPU devices in their place" if summary["simulated"] else "them"
    found = [
        f"{summary['model']}: a step of {shape}, {batch['from']}",
        f"{summary['devices']} x {summary['chip']}, {_size(limit)} each; compiled for {compiled}",
        f"{'mesh':>10} {'per device':>10} {'kernels ms':>11} {'links ms':>9}   data x fsdp x tensor",
    ]
    found += [_line(record) for record in summary["meshes"]]
    chosen = next((r for r in summary["meshes"] if r["mesh"] == summary["best"]), None)
    shown = chosen or next((r for r in summary["meshes"] if "bytes" in r), None)
    if shown is not None:
        found += [
            "",
            f"mesh {shown['mesh']}, per device, rows {'x'.join(map(str, shown['rows']))}:",
            *_parts(shown, limit),
        ]
    if chosen is None:
        found.append("no mesh fits: set train.remat=full, raise train.accumulate, or give more devices or memory")
    else:
        data, fsdp, tensor = chosen["mesh"].split("x")
        found.append(f"train with mesh.data={data} mesh.fsdp={fsdp} mesh.tensor={tensor}")
    return found


def _line(record: dict) -> str:
    guess, told = record["estimated"], f"refused: {record['refused']}" if "refused" in record else "estimated"
    size, kernels, links = guess["bytes"], guess["kernels"], guess["links"]
    if "bytes" in record:
        told, size = "fits" if record["fits"] else "too much", record["peak_bytes"]
        kernels, links = record["seconds"]["kernels"], record["seconds"]["links"]
    return f"{record['mesh']:>10} {_size(size):>10} {1e3 * kernels:11.4g} {1e3 * links:9.3g}   {told}"


def _size(size: float) -> str:
    unit, by = next(((unit, by) for unit, by in (("GB", 1e9), ("MB", 1e6)) if size >= by / 10), ("kB", 1e3))
    return f"{size / by:.2f} {unit}"


def _parts(record: dict, limit: float) -> list[str]:
    found = [f"{name.replace('_', ' '):>18} {_size(size):>10}" for name, size in record["bytes"].items() if size]
    total, evaluation = sum(record["bytes"].values()), record["evaluation"]
    found.append(f"{'a step':>18} {_size(total):>10}")
    if evaluation is not None:
        found.append(f"{'an evaluation':>18} {_size(evaluation['bytes']):>10}")
    found.append(f"{_size(record['peak_bytes'])} of {_size(limit)}: {'fits' if record['fits'] else 'too much'}")
    found.append(f"{record['needed_flops']:.3g} FLOPs needed, {record['compiled_flops']:.3g} in the program's products")
    for kind, sent in sorted(record["sent_bytes"].items(), key=lambda item: -item[1]):
        found.append(f"{kind}: {_size(sent)} sent in {record['exchanges'][kind]} exchanges")
    kernels, links = (1e3 * record["seconds"][name] for name in ("kernels", "links"))
    least, most = max(kernels, links), kernels + links
    found.append(f"at least {least:.4g} ms where no exchange is waited for, {most:.4g} where all are")
    return found
