"""Orbax checkpoints of what training changes: kilobytes for a prompt, whatever the size of the backbone."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pydantic

from jaxprompt.errors import InputError
from jaxprompt.machine.files import cannot_write
from jaxprompt.training.step import TrainState


def saved_step(folder: Path) -> int:
    """The step of the newest checkpoint in a folder that need not be there; 0: there is none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


class Progress(pydantic.BaseModel, strict=True):
    """How far one learner is; `failed`: why it was given up."""

    best: dict[str, Any] | None
    best_step: int | None
    evaluations_since_best: int
    train_loss: float | None
    stopped: bool
    failed: str | None


class Record(pydantic.BaseModel, strict=True):
    """What a resumed run goes on from, beside the state: `members` are one, or those of a population."""

    backbone: str
    data: str
    members: list[Progress]


class Checkpoints:
    """The checkpoints of one run: the state (trainable, optimizer state, step, rng) and a `Record` beside it, as JSON.

    Frozen weights are never written; the record carries their fingerprint.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            enable_background_delete=False,
            # What waits for a folder that another thread could not make waits for ever, even when the process ends.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        )
        with self._writing():
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, record: dict) -> None:
        """Writes a checkpoint in the background; a run that is killed meanwhile keeps the one before.

        Raises InputError when this one, or the one before, cannot be written.
        """
        tree = state.replace(rng=jax.random.key_data(state.rng))
        # The next step consumes the state's buffers, so what is written is a copy of them.
        tree = jax.tree.map(np.asarray, tree)
        step = int(np.max(tree.step))
        args = ocp.args.Composite(state=ocp.args.StandardSave(_as_dict(tree)), record=ocp.args.JsonSave(record))
        with self._writing():
            if not self._folder.is_dir():  # it would be made again, in a run folder without a config
                raise FileNotFoundError(errno.ENOENT, "it was removed")
            if step not in self._manager.all_steps():
                self._manager.save(step, args=args)

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """Reads the newest checkpoint into the structure and shapes of `like`.

        Raises InputError when it does not fit, such as after a change of the prompt's length, or holds another record.
        """
        step = self.latest()
        like_tree = like.replace(rng=jax.random.key_data(like.rng))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_dict(like_tree))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
            Record.model_validate(restored["record"])
        except (ValueError, KeyError, OSError) as error:  # pydantic's are ValueErrors
            if isinstance(error, pydantic.ValidationError):
                first = error.errors()[0]
                reason = f"its record's {'.'.join(map(str, first['loc'])) or 'kind'}: {first['msg']}"
            else:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"checkpoint {step} in {str(self._manager.directory)!r} cannot be restored ({reason[:160]}): "
                "delete it to resume from the one before"
            ) from None
        leaves = jax.tree.leaves(restored["state"])
        state = jax.tree.unflatten(jax.tree.structure(like_tree), leaves)
        return state.replace(rng=jax.random.wrap_key_data(state.rng)), restored["record"]

    def close(self) -> None:
        """Waits for writing to end. Raises InputError when it fails."""
        with self._writing():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what Orbax and TensorStore raise of a disk into one line."""
        try:
            yield
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        except ValueError as error:  # TensorStore's, which knows the system's number of the error
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if code is None:
                raise
            raise cannot_write(self._folder, OSError(int(code.group(1)), os.strerror(int(code.group(1))))) from None


def _as_dict(state: TrainState) -> dict:
    # Optax's states are named tuples of several kinds; numbered leaves keep the file independent of them.
    return {f"{number:04d}": leaf for number, leaf in enumerate(jax.tree.leaves(state))}
