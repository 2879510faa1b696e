"""Checkpoints that cannot be written: one line, no hang, and the last good one is kept."""

import shutil
import subprocess
import sys

import jax.numpy as jnp
import optax
import pytest

from jaxprompt.errors import InputError
from jaxprompt.training.checkpoint import Checkpoints
from jaxprompt.training.step import init_state

OPTIMIZER = optax.sgd(0.1)

PROGRESS = {"best": None, "best_step": None, "evaluations_since_best": 0}
PROGRESS |= {"train_loss": 0.5, "stopped": False, "failed": None}
RECORD = {"backbone": "b", "data": "d", "members": [PROGRESS]}


def state(step):
    return init_state({"prompt": {"soft": jnp.full((2, 3), float(step))}}, OPTIMIZER).replace(step=jnp.asarray(step))


@pytest.fixture
def kept(tmp_path):
    """A folder with a checkpoint of step 1."""
    folder = tmp_path / "run" / "checkpoints"
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save(state(1), RECORD)
    checkpoints.close()
    return folder


@pytest.mark.parametrize("instead", ["nothing", "file"])
def test_a_folder_that_went_is_one_line(kept, instead):
    checkpoints = Checkpoints(kept, keep=2)
    shutil.rmtree(kept.parent)
    if instead == "file":
        kept.parent.write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be written .*: its folder is gone"):
        checkpoints.save(state(2), RECORD)
    checkpoints.close()
    assert not kept.exists()


def test_a_file_in_its_place_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_bytes(b"")
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    with pytest.raises(InputError, match="checkpoints' cannot be written"):
        checkpoints.save(state(2), RECORD)


def test_a_full_disk_is_one_line_and_keeps_the_last(kept, monkeypatch):
    checkpoints = Checkpoints(kept, keep=2)

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 354 bytes: No space left [os_error_code='28']\nmore")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\): free space"):
        checkpoints.save(state(2), RECORD)
    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", full)
    with pytest.raises(InputError, match="No space left"):
        checkpoints.close()
    monkeypatch.undo()
    restored, _ = Checkpoints(kept, keep=2).restore(state(0))
    assert int(restored.step) == 1 and (restored.trainable["prompt"]["soft"] == 1).all()


def test_a_process_whose_checkpoint_cannot_be_made_ends(kept):
    """Orbax's threads would wait for its folder, and the process for them."""
    program = f"""
import sys
sys.path.insert(0, {str(kept.parent)!r})
from pathlib import Path
from tests.training.test_checkpoint import RECORD, Checkpoints, state
folder = Path({str(kept)!r})
checkpoints = Checkpoints(folder, keep=2)
made = Path.mkdir
def once(self, *args, **kwargs):
    raise OSError(28, "No space left on device", str(self))
Path.mkdir = once
import os
os.mkdir = once
os.makedirs = once
try:
    checkpoints.save(state(2), RECORD)
    checkpoints.close()
except Exception as error:
    print(str(error)[:200])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "cannot be written (No space left on device): free space" in done.stdout, done.stderr
