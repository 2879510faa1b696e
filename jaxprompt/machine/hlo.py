"""Reads a program as XLA prints it: which kernels a step runs, how often, what each moves, multiplies and sends."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_ARRAY = re.compile(r"\b(" + "|".join(_BYTES) + r")\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
# Instructions that are no kernel.
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "iota", "partition-id"}
_FREE |= {"copy-done", "slice-done", "async-done", "all-gather-done", "all-reduce-done", "collective-permute-done"}
# A TPU's names for several arrays seen as one.
_FREE_TARGETS = ("ConcatBitcast", "AssumeGatherIndicesInBound")
# Instructions that read of an operand no more than they give.
_READS_A_PART = {"dynamic-slice", "slice", "gather"}
_COLLECTIVE = re.compile(r"(all-\w+(?:-to-all)?|reduce-scatter|collective-permute|collective-broadcast)(-start)?")


@dataclass(frozen=True)
class Kernel:
    """One kernel of a program, run `times` per step.

    Attributes:
      operation: where in the model it comes from, as JAX names it.
      bytes: read and written in device memory, if nothing of it were in a cache.
      flops: of its products, by the type of their operands ("bf16", "f32", ...).
      collective: what it exchanges with other chips, such as "all-reduce"; empty: nothing.
      sent: bytes that each chip sends for that, in a ring.
    """

    name: str
    operation: str
    times: int
    bytes: int
    flops: dict[str, float]
    collective: str = ""
    sent: float = 0.0


@dataclass
class _Instruction:
    name: str
    shape: str
    opcode: str
    operands: list[str]
    rest: str
    root: bool

    def attribute(self, pattern: str) -> str | None:
        found = re.search(pattern, self.rest)
        return found.group(1) if found else None


@dataclass
class _Computation:
    instructions: dict[str, _Instruction] = field(default_factory=dict)

    @property
    def root(self) -> _Instruction:
        return next(i for i in self.instructions.values() if i.root)

    def parameter(self, number: int) -> _Instruction | None:
        at = (i for i in self.instructions.values() if i.opcode == "parameter" and i.rest.startswith(f"{number})"))
        return next(at, None)


def kernels(text: str) -> list[Kernel]:
    """The kernels of a program, those of its loops included.

    Args:
      text: `compiled.as_text()`.

    Raises:
      ValueError: it is not said how often a loop runs, or among how many chips something is exchanged.
    """
    computations, entry = _parse(text)
    return list(_walk(computations, entry, 1, set()))


def kept_bytes(text: str) -> int:
    """What the loops of a forward pass stack up, layer by layer, for the backward pass, in bytes of one chip.

    Layers that are unrolled stack nothing.
    """
    computations, entry = _parse(text)
    loops = [i for i in computations[entry].instructions.values() if i.opcode == "while"]
    bodies = [computations[loop.attribute(r"body=%?([\w.\-]+)")] for loop in loops]
    return sum(
        _whole_size(instruction.shape)
        for body in bodies
        for instruction in body.instructions.values()
        if _stacks(computations, instruction)
    )


def _stacks(computations, instruction: _Instruction) -> bool:
    """Whether an instruction of a loop's body puts something into a stack that JAX's forward pass keeps."""
    operation = instruction.attribute(r'op_name="([^"]*)"') or ""
    if "jvp(" not in operation or "transpose(" in operation or not operation.endswith("dynamic_update_slice"):
        return False
    inside = _called(computations, instruction)
    return instruction.opcode == "dynamic-update-slice" or (
        inside is not None and any(i.opcode == "dynamic-update-slice" for i in inside.instructions.values())
    )


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations, current, entry = {}, None, ""
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header and "->" in line:
                current = computations.setdefault(header.group(1), _Computation())
                entry = header.group(1) if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif found := _INSTRUCTION.match(line):
            root, name, shape, opcode, rest = found.groups()
            operands = re.findall(r"%([\w.\-]+)", rest.split(")")[0])
            current.instructions[name] = _Instruction(name, shape, opcode, operands, rest, bool(root))
    return computations, entry


def _walk(computations: dict[str, _Computation], name: str, times: int, begun: set[str]) -> Iterator[Kernel]:
    here = computations[name]
    for instruction in here.instructions.values():
        if instruction.opcode == "while":
            trips = _trips(computations, instruction)
            yield from _walk(computations, instruction.attribute(r"body=%?([\w.\-]+)"), times * trips, begun)
        elif instruction.opcode == "call":
            yield from _walk(computations, instruction.attribute(r"to_apply=%?([\w.\-]+)"), times, begun)
        elif instruction.opcode not in _FREE and not any(name in instruction.rest for name in _FREE_TARGETS):
            operation = instruction.attribute(r'op_name="([^"]*)"') or ""
            if instruction.opcode in ("copy-start", "slice-start"):
                moved = _begun(instruction)
            else:
                moved = _written(computations, instruction) + sum(_reads(computations, here, instruction))
            flops = _flops(computations, here, instruction)
            kind, sent = _exchanged(computations, here, instruction, begun)
            yield Kernel(instruction.name, operation, times, moved, flops, kind, sent)


def _exchanged(computations, here: _Computation, instruction: _Instruction, begun: set[str]) -> tuple[str, float]:
    """What an instruction exchanges with other chips, and how many bytes it sends.

    Args:
      begun: the channels of what is exchanged already. A TPU's compiler spreads one exchange over several fusions, beside
        products in each of them, and all of these name it.
    """
    if found := _COLLECTIVE.fullmatch(instruction.opcode):
        channel = instruction.attribute(r"channel_id=(\d+)")
        if channel in begun:
            return "", 0.0
        begun |= {channel} - {None}
        return found.group(1), _sent(found.group(1), here, instruction)
    inside = _called(computations, instruction)
    parts = [] if inside is None else [_exchanged(computations, inside, i, begun) for i in inside.instructions.values()]
    return next((kind for kind, _ in parts if kind), ""), sum(sent for _, sent in parts)


def _sent(kind: str, here: _Computation, instruction: _Instruction) -> float:
    """Bytes that a chip sends, by the algorithms that send least: around a ring, or to each of the others."""
    given = sum(_whole_size(here.instructions[name].shape) for name in instruction.operands)
    if kind in ("collective-permute", "collective-broadcast"):
        return given
    chips = _group(instruction)
    if kind == "all-gather":
        return given * (chips - 1)
    return given * (chips - 1) / chips * (2 if kind == "all-reduce" else 1)


def _group(instruction: _Instruction) -> int:
    """Among how many chips something is exchanged. Raises ValueError where that is not said."""
    listed = instruction.attribute(r"replica_groups=\{\{([\d,]+)\}")
    if listed:
        return len(listed.split(","))
    shape = instruction.attribute(r"replica_groups=\[\d+,(\d+)\]<=")
    if shape:
        return int(shape)
    axes, named = (
        instruction.attribute(r"replica_groups=mesh\[" + part) for part in (r"([^\]]*)\]", r"[^\]]*\][^{]*\{([^}]*)\}")
    )
    if axes is None or named is None:
        raise ValueError(f"{instruction.name}: among how many chips it is exchanged is not said")
    sizes = dict(re.findall(r"('\w+')=(\d+)", axes))
    # An axis may be split: 'x':(2)4 are four chips of it, behind two.
    parts = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", named)
    return prod(int(part or sizes[axis]) for axis, part in parts)


def _size(shape: str) -> int:
    """Bytes in the device's memory. What lies in a TPU's own memory, `S(1)` and so on, is none of it."""
    return sum(size for size, outside in _arrays(shape) if outside)


def _whole_size(shape: str) -> int:
    """Bytes wherever they lie."""
    return sum(size for size, _ in _arrays(shape))


def _arrays(shape: str) -> list[tuple[int, bool]]:
    """Of each array its bytes, and whether it lies in the device's memory."""
    found = _ARRAY.findall(shape)
    return [(_BYTES[k] * prod(map(int, filter(None, dims.split(",")))), "S(" not in at) for k, dims, at in found]


def _trips(computations, loop: _Instruction) -> int:
    """How often a loop runs: as XLA says, or up to the number that its counter is compared with.

    Raises:
      ValueError: neither is there; counting it once would leave products out unseen.
    """
    known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
    if known:
        return int(known)
    condition = computations[loop.attribute(r"condition=%?([\w.\-]+)")].instructions.values()
    counters = ("s32[]", "u32[]")  # the compiler's own loops, over a product's parts, count without a sign
    limits = [int(i.rest.split(")")[0]) for i in condition if i.opcode == "constant" and i.shape.startswith(counters)]
    if not limits:
        raise ValueError(f"loop {loop.name}: how often it runs is not said")
    return max(limits)


def _begun(instruction: _Instruction) -> int:
    """Bytes that a copy begins to move, one that another instruction waits for."""
    (first, outside), (second, also_outside), *_ = _arrays(instruction.shape)
    return min(first, second) * (outside + also_outside)


def _dims(shape: str) -> list[int]:
    return [int(n) for n in _ARRAY.search(shape).group(2).split(",") if n]


def _called(computations, instruction: _Instruction) -> _Computation | None:
    return computations.get(instruction.attribute(r"calls=%?([\w.\-]+)") or "")


def _reads(computations, here: _Computation, instruction: _Instruction) -> Iterator[int]:
    """Bytes read of each operand."""
    inside = _called(computations, instruction)
    for number, operand in enumerate(instruction.operands):
        size = _size(here.instructions[operand].shape) if operand in here.instructions else 0
        if inside is None:
            yield min(size, _size(instruction.shape)) if instruction.opcode in _READS_A_PART else size
        else:
            yield min(size, _read_inside(computations, inside, inside.parameter(number)))


def _read_inside(computations, inside: _Computation, value: _Instruction | None) -> int:
    """Bytes that a fused computation reads of a value."""
    if value is None:
        return 0
    total = 0
    for user in inside.instructions.values():
        if value.name not in user.operands:
            continue
        if user.opcode in _READS_A_PART and user.operands[0] == value.name:
            total += _size(user.shape)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            continue  # written in place
        elif user.opcode in ("bitcast", "copy", "reshape") and not user.root:
            total += _read_inside(computations, inside, user)
        elif nested := _called(computations, user):
            total += _read_inside(computations, nested, nested.parameter(user.operands.index(value.name)))
        else:
            return _size(value.shape)
    return total


def _written(computations, instruction: _Instruction) -> int:
    """Bytes written; of an update in place, the update."""
    inside = _called(computations, instruction)
    if inside is None:
        return _size(instruction.shape)

    def of(value: _Instruction) -> int:
        if value.opcode == "tuple":
            return sum(of(inside.instructions[name]) for name in value.operands)
        if value.opcode == "bitcast":
            return of(inside.instructions[value.operands[0]])
        if value.opcode == "dynamic-update-slice":
            return _size(inside.instructions[value.operands[1]].shape)
        return _size(value.shape)

    return min(_size(instruction.shape), of(inside.root))


def _flops(computations, here: _Computation, instruction: _Instruction) -> Counter:
    total: Counter = Counter()
    inside = _called(computations, instruction)
    if inside is not None:
        for part in inside.instructions.values():
            total.update(_flops(computations, inside, part))
    elif instruction.opcode == "dot" or "__cublas" in instruction.rest:
        left = here.instructions[instruction.operands[0]].shape
        contracted = instruction.attribute(r'lhs_contracting_dim(?:ension)?s(?:=\{|":\[)([^}\]]*)')
        depth = prod(_dims(left)[int(axis)] for axis in re.findall(r"\d+", contracted or ""))
        total[_ARRAY.search(left).group(1)] += 2.0 * prod(_dims(instruction.shape)) * depth
    elif instruction.opcode == "convolution":  # a TPU's product
        kernel = here.instructions[instruction.operands[1]].shape
        labels = instruction.attribute(r"dim_labels=\w+_(\w+)->")
        depth = _dims(kernel)[labels.index("i")]
        total[_ARRAY.search(kernel).group(1)] += 2.0 * prod(_dims(instruction.shape)) * depth
    elif "tpu_custom_call" in instruction.rest:
        total["bf16"] += float(instruction.attribute(r'"cost_estimate":\{"flops":"(\d+)"') or 0)
    elif "__cudnn$fmha" in instruction.rest:
        # Logits and outputs; backward the logits again and the gradients of both and of their operands.
        rows, heads, queries, width = _dims(instruction.shape)
        keys = _dims(here.instructions[instruction.operands[1]].shape)[1]
        products = 5 if "Backward" in instruction.rest else 2
        total[_ARRAY.search(instruction.shape).group(1)] += products * 2.0 * rows * heads * queries * keys * width
    return total
