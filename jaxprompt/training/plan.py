"""What training a config would take of each of many devices, and on which mesh least: compiled, and nothing runs."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprompt.backbone.planned import on_mesh, planned_backbone
from jaxprompt.config import Config
from jaxprompt.data.loader import Loader
from jaxprompt.errors import InputError
from jaxprompt.experiment import flops
from jaxprompt.experiment.build import Experiment, backbone_options, build
from jaxprompt.experiment.data import TrainingData, evaluation_data, make_loader
from jaxprompt.experiment.made_up import made_up
from jaxprompt.experiment.rows import training_rows, training_sources, validates, validation_rows
from jaxprompt.machine.ahead import batch_shapes, shapes_on
from jaxprompt.machine.plan import Usage, device_bytes, product_seconds, usage
from jaxprompt.machine.sharding import make_mesh, replicated
from jaxprompt.machine.targets import Target
from jaxprompt.reports.terminal import Reporter
from jaxprompt.training.alone import Alone
from jaxprompt.training.loop import LOOKED_AHEAD
from jaxprompt.training.member import Member
from jaxprompt.training.meshes import Estimate, Sizes, estimate, name_of, product_type, refusal, sensible
from jaxprompt.types import Batch


@dataclass(frozen=True)
class Devices:
    """What is planned for.

    Attributes:
      devices: to compile for.
      target: their speeds.
      limit: bytes that each has.
      simulated: whether they are CPU devices in the place of others.
    """

    devices: Sequence[jax.Device]
    target: Target
    limit: float
    simulated: bool


@dataclass(frozen=True)
class Subject:
    """What is planned: an experiment of shapes, on one device, and its data.

    Attributes:
      rows: how the batches' rows came about, to be said.
      tokens: of each row, where they are told; None: as many as the data make.
    """

    experiment: Experiment
    data: TrainingData
    rows: str
    tokens: int | None

    def learner(self, mesh: jax.sharding.Mesh) -> Alone:
        """As the loop has it, on a mesh."""
        experiment = self.experiment
        backbone = on_mesh(experiment.backbone, mesh, experiment.config.quantize)
        experiment = dataclasses.replace(experiment, backbone=backbone)
        data = self._on(experiment)
        return Alone(experiment, data, Member("", experiment, data, Path(), Reporter(quiet=True)))

    def _on(self, experiment: Experiment) -> TrainingData:
        """The data, in rows for the experiment's mesh."""
        data = self.data
        if not isinstance(data.train, Loader):  # which encodes examples when they are drawn
            return TrainingData.load(experiment)
        train = make_loader(experiment, data.train.examples, data.train.order)
        if self.tokens is not None:
            side = "source_length" if experiment.backbone.seq2seq else "row_length"
            train = dataclasses.replace(train, plan=dataclasses.replace(train.plan, **{side: self.tokens}))
        valid = data.validation and evaluation_data(experiment, data.validation.loader.examples)
        return dataclasses.replace(data, train=train, validation=valid)


def subject(config: Config, device: jax.Device, rows: int | None, tokens: int | None) -> Subject:
    """Reads what there is to read of a config: the model's shapes, and the rows, or rows made up in their place.

    Args:
      device: one of those that are planned for.
      rows, tokens: of each batch that is computed at once, and of each row, where the rows are to be made up. None of
        them: they are made up where the data cannot be read, of as many tokens as an example may have.

    Raises:
      InputError: what `build` raises, or a config of several prompts.
    """
    for key in ("population", "tasks"):
        if getattr(config, key):
            raise InputError(f"{key}: plan one prompt (leave it out)")
    backbone = planned_backbone(config.model, mesh=make_mesh(1, devices=[device]), **backbone_options(config))
    # Nothing is fetched, and nothing kept.
    config = config.model_copy(update={"data": config.data.model_copy(update={"download": False, "cache": None})})
    missing = "they are asked for" if rows or tokens else _missing(config)
    if missing is None:
        experiment = build(config, backbone)
        return Subject(experiment, TrainingData.load(experiment), "of the data", None)
    size = config.train.batch_size // config.train.accumulate
    experiment = made_up(config, backbone, (rows or size) * config.train.accumulate, tokens)
    return Subject(experiment, TrainingData.load(experiment), f"made up: {missing}", tokens)


def _missing(config: Config) -> str | None:
    """Why a config's rows cannot be read here; None: they can."""
    if config.data.train is None:
        return "data.train is not set"
    try:
        _ = training_sources(config) if config.data.stream else training_rows(config)
        _ = validation_rows(config) if validates(config) else None
    except InputError as error:
        return str(error)
    return None


def plan(
    subject: Subject, where: Devices, only: Sizes | None, most: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Compiles the step for the meshes of least estimated time, and proposes the one that takes least and fits.

    Args:
      only: the one mesh to compile; None: those that make sense are tried.
      most: how many are compiled, more where none of them fits, twice as many at most; None: all.
      say: is told what is being compiled.

    Returns:
      `meshes`, the records of those that make sense, best first; `best`, the name of the one that is proposed, None where
      none fits; and what was planned for.

    Raises:
      InputError: no mesh of so many devices makes sense.
    """
    experiment, data, count = subject.experiment, subject.data, len(where.devices)
    config, backbone = experiment.config, experiment.backbone
    batch_size = data.train.batch_size
    if only is None:
        tried = sensible(count, backbone, batch_size)
        if not tried:
            why = "; ".join(filter(None, (refusal(s, backbone, batch_size) for s in ((count, 1, 1), (1, 1, count)))))
            raise InputError(f"no mesh of {count} devices makes sense: {why} (change train.batch_size or --devices)")
    else:
        if reason := refusal(only, backbone, batch_size):
            raise InputError(f"mesh {name_of(only)}: {reason}")
        tried = [only]
    batch = _largest(config, data)
    counted = flops.step_flops(experiment, data.hoisted, batch)
    needed = counted.total * data.accumulate
    alone = Alone(experiment, data, Member("", experiment, data, Path(), Reporter(quiet=True)))
    state = jax.eval_shape(alone.start, alone.trainable)
    found = {
        sizes: estimate(sizes, backbone, config, batch, data.accumulate, needed, state, where.target) for sizes in tried
    }
    ranked = sorted(tried, key=lambda sizes: (found[sizes].bytes > where.limit, found[sizes].seconds))
    records = []
    for sizes in ranked:
        done = [record for record in records if "bytes" in record or "refused" in record]
        fits = any(record["fits"] for record in records)
        left = only is None and most is not None and len(done) >= (most if fits else 2 * most)
        guess = found[sizes]
        numbers = {"bytes": guess.bytes, "seconds": guess.seconds, **dataclasses.asdict(guess)}
        records.append({"mesh": name_of(sizes), "fits": False, "estimated": numbers})
        if left or (guess.resident > where.limit and only is None):
            continue
        say(f"compiling for mesh {name_of(sizes)} ...")
        records[-1] |= _compiled(subject, sizes, where, guess, needed / count)
    # Whether exchanges are hidden behind kernels is not known: what has least of both is proposed.
    records.sort(key=lambda r: (not r["fits"], sum(r["seconds"].values()) if "seconds" in r else np.inf))
    return {
        "model": config.model,
        "devices": count,
        "chip": where.target.name,
        "simulated": where.simulated,
        "memory": where.limit,
        "batch": {
            "from": subject.rows,
            "rows": batch.inputs.ids.shape[0],
            "row_tokens": batch.inputs.ids.shape[1],
            "source_tokens": 0 if batch.source is None else batch.source.ids.shape[1],
            "accumulated": data.accumulate,
            "real_tokens": counted.tokens * data.accumulate,
        },
        "needed_flops": needed,
        "meshes": records,
        "best": records[0]["mesh"] if records[0]["fits"] else None,
    }


def _largest(config: Config, data: TrainingData) -> Batch:
    """The batch of most tokens, among the first."""
    steps = min(LOOKED_AHEAD, max(config.train.steps * config.train.accumulate, 1))
    return max((data.train[step] for step in range(steps)), key=lambda batch: batch.inputs.ids.size)


def _compiled(subject: Subject, sizes: Sizes, where: Devices, guess: Estimate, needed: float) -> dict[str, Any]:
    """The record of a mesh whose step is compiled; of one that the compiler refuses, why."""
    mesh = make_mesh(*sizes, devices=where.devices)
    learner, begun = subject.learner(mesh), time.perf_counter()
    try:
        return _measured(learner, where, guess, needed) | {"compile_seconds": time.perf_counter() - begun}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        line = next(line for line in str(error).splitlines() if "RESOURCE_EXHAUSTED" in line)
        return {"refused": line.strip()[:300], "compile_seconds": time.perf_counter() - begun}


def _measured(learner: Alone, where: Devices, guess: Estimate, needed: float) -> dict[str, Any]:
    experiment, data, mesh = learner.experiment, learner.data, learner.experiment.backbone.mesh
    forward, whole, parts, target = experiment.forward(data.hoisted), replicated(mesh), data.accumulate, where.target
    frozen = forward.frozen_shapes(forward.prefill())
    learner.compile(frozen)
    state = shapes_on(whole, jax.eval_shape(learner.start, learner.trainable))
    batch = batch_shapes(_largest(learner.config, data), mesh)
    if parts == 1:
        arguments = (frozen, state, batch)
        lowered = learner.step.jitted.lower(*arguments)
    else:
        total = jax.eval_shape(learner.step.first_gradient, frozen, state.trainable, batch)
        arguments = (frozen, state.trainable, shapes_on(whole, total), batch)
        lowered = learner.step.add_gradient.lower(*arguments)
    took = usage(lowered.compile(), target)
    held = {
        "weights": device_bytes(frozen["params"]),
        "prefix_and_labels": device_bytes((frozen["objective"], frozen["hard_prefix"])),
        "prompt": device_bytes(state.trainable),
        "optimizer": device_bytes(state) - device_bytes(state.trainable),
    }
    # The next batch is on its way while a step runs.
    bytes_ = held | {
        "batches": 2 * parts * device_bytes(batch),
        "gradient": 0 if parts == 1 else device_bytes(arguments[2]),
        "padding": max(0, took.arguments - device_bytes(arguments)),
        "activations": took.kept,
        "temporary": took.temporary - took.kept,
        "outputs": took.outputs,
    }
    peak, evaluation = sum(bytes_.values()), None
    if data.validation is not None:
        rows = batch_shapes(next(data.validation.batches()), mesh)
        # Nothing is kept for a backward pass: with no more tokens than a step it takes less.
        if rows.inputs.ids.size > batch.inputs.ids.size:
            learned = shapes_on(whole, (jax.eval_shape(learner.fold, state.trainable), state.trainable.get("head", {})))
            scored = usage(learner.eval_step.ahead.jitted.lower(frozen, *learned, rows).compile(), target)
            own = device_bytes(learned[0]) + 2 * device_bytes(rows) + scored.outputs + scored.temporary
            evaluation = {"rows": list(rows.inputs.ids.shape), "bytes": sum(held.values()) + own}
            peak = max(peak, evaluation["bytes"])
    seconds = _seconds(took, where, guess, product_type(experiment.backbone), parts)
    return {
        "rows": list(batch.inputs.ids.shape),
        "bytes": bytes_,
        "peak_bytes": peak,
        "evaluation": evaluation,
        "fits": peak <= where.limit,
        "needed_flops": needed,
        "compiled_flops": parts * took.flops,
        "sent_bytes": {kind: parts * sent for kind, sent in took.sent.items()},
        "exchanges": {kind: parts * times for kind, times in took.exchanges.items()},
        "seconds": seconds,
    }


def _seconds(took: Usage, where: Devices, guess: Estimate, kind: str, parts: int) -> dict[str, float]:
    """How long a step takes at least: its kernels, and what is exchanged meanwhile."""
    target = where.target
    kernels = parts * took.seconds
    if where.simulated:
        # A CPU's program widens what it multiplies, and moves that too: no chip would.
        kernels = max(product_seconds({kind: parts * took.flops}, target), guess.moved / target.bandwidth)
    return {"kernels": kernels, "links": parts * sum(took.sent.values()) / target.link}
