"""Orbax checkpoints of what training changes: kilobytes for a prompt, whatever the size of the backbone."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
import pydantic

from jaxprompt.errors import InputError
from jaxprompt.machine.files import cannot_write
from jaxprompt.machine.processes import is_first
from jaxprompt.training.step import TrainState

log = logging.getLogger("jaxprompt")
# Releases that may round otherwise, or draw other examples.
_LIBRARIES = ("jaxprompt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# What the system says of a file that is not as it was written; whatever else it says, the file may be good.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)


class Window(pydantic.BaseModel, strict=True):
    """What is summed up since the last record: losses and counts of the steps that were taken, and how many were not."""

    loss: float = 0.0
    count: float = 0.0
    grad_norm: float | None = None
    skipped: int = 0


class Progress(pydantic.BaseModel, strict=True):
    """How far one learner is.

    Attributes:
      judged: the step of the last evaluation; -1: there was none.
      skipped, bad_steps, bad_step: steps whose numbers were not finite; how many of them the last in a row were; the last.
      failed: why it was given up.
    """

    best: dict[str, Any] | None
    best_step: int | None
    evaluations_since_best: int
    judged: int
    train_loss: float | None
    window: Window
    skipped: int
    bad_steps: int
    bad_step: int | None
    stopped: bool
    failed: str | None


class Record(pydantic.BaseModel, strict=True):
    """What a resumed run goes on from, beside the state.

    Attributes:
      fingerprints: of the backbone, the tokenizer and the data, by what messages call them.
      versions: of libraries, by their names.
      members: one, or those of a population.
    """

    fingerprints: dict[str, str]
    versions: dict[str, str]
    members: list[Progress]

    @classmethod
    def of(cls, fingerprints: Mapping[str, str], members: Sequence[Mapping[str, Any]]) -> Self:
        """The record of a run under the libraries that are installed."""
        versions = {name: version(name) for name in _LIBRARIES}
        return cls(fingerprints=dict(fingerprints), versions=versions, members=list(members))

    def check(self, here: "Record", run_dir: Path) -> None:
        """Raises InputError unless a run is made of what it was made of; warns of other libraries."""
        for name, digest in here.fingerprints.items():
            there = self.fingerprints.get(name)
            if there != digest:
                raise InputError(
                    f"run folder {str(run_dir)!r} was made with another {name} (fingerprint {there}, now {digest}): put "
                    "that back, or name another run_dir"
                )
        changed = [
            f"{name} {self.versions.get(name)} (now {now})"
            for name, now in here.versions.items()
            if self.versions.get(name) != now
        ]
        if changed:
            log.warning(
                f"run folder {str(run_dir)!r} was made with {', '.join(changed)}: it goes on, but may not end bit for bit as "
                "with those"
            )


@dataclass(frozen=True)
class Saved:
    """The newest checkpoint of a run that is as it was written.

    Attributes:
      step: 0 without a record: there is none.
      leaves: the state's arrays, in their order.
      damaged: whether there were newer ones, which are not.
    """

    folder: Path
    step: int
    leaves: list[np.ndarray]
    record: Record | None
    damaged: bool

    @classmethod
    def newest(cls, folder: Path) -> Self:
        """Reads it, and warns of newer ones that are damaged. Nothing is written; the folder need not be there.

        Raises:
          InputError: it cannot be read, though it may be good, or another release wrote it.
        """
        try:
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        except OSError as error:
            raise _cannot_read(repr(str(folder)), error.errno) from None
        damaged, reason = [], ""
        found = cls(folder, 0, [], None, False)
        for step in sorted((int(name) for name in names if name.isdecimal()), reverse=True):
            try:
                leaves, record = _read(folder / str(step))
            except MemoryError:
                raise
            except Exception as error:  # readers of foreign bytes raise what they like
                number = _number_of(error)
                if number is not None and number not in _DAMAGE:
                    raise _cannot_read(f"checkpoint {step} in {str(folder)!r}", number) from None
                damaged.append(step)
                reason = reason or (str(error).splitlines() or [""])[0][:100] or type(error).__name__
                continue
            found = cls(folder, step, leaves, _as_record(record, step, folder), False)
            break
        if damaged:
            which = f"checkpoints {' and '.join(map(str, damaged))}" if damaged[1:] else f"checkpoint {damaged[0]}"
            instead = (
                f"going on from checkpoint {found.step}" if found.record else "no other is left, the run begins anew"
            )
            log.warning(f"{which} in {str(folder)!r} cannot be used, being damaged ({reason}): {instead}")
        return cls(folder, found.step, found.leaves, found.record, bool(damaged))

    def state(self, like: TrainState) -> TrainState:
        """The state, in the structure of `like`. Raises InputError where that has other arrays."""
        like_tree = like.replace(rng=jax.random.key_data(like.rng))
        expected, structure = jax.tree_util.tree_flatten_with_path(like_tree)
        there, here = list(map(_form, self.leaves)), [_form(leaf) for _, leaf in expected]
        if there != here:
            odd = next((at for at, pair in enumerate(zip(there, here, strict=False)) if pair[0] != pair[1]), None)
            what = f"{len(there)} arrays there, {len(here)} by the config"
            if odd is not None:
                path = jax.tree_util.keystr(expected[odd][0], simple=True, separator=".")
                what = f"{path} is {there[odd]} there, {here[odd]} by the config"
            raise InputError(
                f"checkpoint {self.step} in {str(self.folder)!r} is of another config ({what}): name another run_dir"
            )
        state = jax.tree.unflatten(structure, self.leaves)
        return state.replace(rng=jax.random.wrap_key_data(state.rng))


def _read(path: Path) -> tuple[list[np.ndarray], Any]:
    """The arrays and the record of a checkpoint; raises anything where they are not as they were written."""
    with ocp.StandardCheckpointer() as reader:
        arrays = reader.restore(path.absolute() / "state")
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        kept = reader.restore(path.absolute() / "record")
    leaves = [np.asarray(arrays[name]) for name in sorted(arrays)]
    if kept["digest"] != _digest(leaves, kept["record"]):
        raise ValueError("its digest is another")
    return leaves, kept["record"]


def _as_record(record: Any, step: int, folder: Path) -> Record:
    try:
        return Record.model_validate(record)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        by = record.get("versions", {}).get("jaxprompt") if isinstance(record, dict) else None
        raise InputError(
            f"checkpoint {step} in {str(folder)!r} is of another release of jaxprompt ({by}; its record's "
            f"{'.'.join(map(str, first['loc'])) or 'kind'}: {first['msg']}): use that one, or name another run_dir"
        ) from None


def _form(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _digest(leaves: Sequence[np.ndarray], record: Any) -> str:
    """64 hex digits of the arrays, bit for bit, with their types and shapes, and of the record."""
    digest = hashlib.sha256(json.dumps([record, *map(_form, leaves)], sort_keys=True).encode())
    for leaf in leaves:
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _cannot_read(what: str, number: int) -> InputError:
    return InputError(
        f"{what} cannot be read ({os.strerror(number)}): look after the disk and give the same command again"
    )


def _number_of(error: Exception) -> int | None:
    """The system's number of an error, which TensorStore has in the text of a ValueError."""
    if isinstance(error, OSError):
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return None if code is None else int(code.group(1))


class Checkpoints:
    """Writes the checkpoints of one run: the state (trainable, optimizer state, step, rng) and a `Record` beside it, as JSON.

    Several processes call it alike; each holds all of the state, of which the first writes the arrays.

    Frozen weights are never written; the record carries their fingerprint.
    """

    def __init__(self, folder: Path, keep: int, after: int = 0):
        """Begins to write those behind step `after`. What there is behind it goes: it is damaged, or not whole."""
        self._folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            enable_background_delete=False,
            # What waits for a folder that another thread could not make waits for ever, even when the process ends.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        )
        with self._writing():
            for path in self._folder.iterdir() if is_first() and self._folder.is_dir() else ():
                if path.name.isdecimal() and int(path.name) > after:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._remove_partial()
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, state: TrainState, record: Record) -> None:
        """Writes a checkpoint in the background; a run that is killed meanwhile keeps the one before.

        Raises InputError when this one, or the one before, cannot be written.
        """
        tree = state.replace(rng=jax.random.key_data(state.rng))
        # The next step consumes the state's buffers, so what is written is a copy of them.
        leaves = list(map(np.asarray, jax.tree.leaves(tree)))
        step = int(np.max(tree.step))
        kept = record.model_dump(mode="json")
        args = ocp.args.Composite(
            # Optax's states are named tuples of several kinds; numbered leaves keep the file independent of them.
            state=ocp.args.StandardSave({f"{number:06d}": leaf for number, leaf in enumerate(leaves)}),
            record=ocp.args.JsonSave({"digest": _digest(leaves, kept), "record": kept}),
        )
        with self._writing():
            if not self._folder.is_dir():  # it would be made again, in a run folder without a config
                raise FileNotFoundError(errno.ENOENT, "it was removed")
            if step not in self._manager.all_steps():
                self._manager.save(step, args=args)

    def wait(self) -> None:
        """Waits for writing to end. Raises InputError when it fails."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for writing to end. Raises InputError when it fails."""
        with self._writing():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()
                self._remove_partial()

    def _remove_partial(self) -> None:
        """Removes checkpoints that were not written to their end: on a full disk, others need the room."""
        if not is_first():
            return
        for path in self._folder.glob(f"*{ocp.path.step.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what Orbax and TensorStore raise of a disk into one line."""
        try:
            yield
        except (OSError, ValueError) as error:
            number = _number_of(error)
            if number is None:
                raise
            raise cannot_write(self._folder, OSError(number, os.strerror(number))) from None
