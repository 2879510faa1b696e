"""Checkpoints that cannot be written: one line, no hang, and the last good one is kept. What is read is what was written."""

import errno
import logging
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxprompt.errors import InputError
from jaxprompt.training.checkpoint import Checkpoints, Progress, Record, Saved, Window
from jaxprompt.training.step import init_state

OPTIMIZER = optax.sgd(0.1)

PROGRESS = {"best": None, "best_step": None, "evaluations_since_best": 0, "judged": -1, "train_loss": 0.5}
PROGRESS |= {"window": Window(), "skipped": 0, "bad_steps": 0, "bad_step": None, "stopped": False, "failed": None}
RECORD = Record.of({"backbone": "b"}, [PROGRESS])


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
    checkpoints = Checkpoints(kept, keep=2, after=1)
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
    checkpoints = Checkpoints(kept, keep=2, after=1)

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 354 bytes: No space left [os_error_code='28']\nmore")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\): free space"):
        checkpoints.save(state(2), RECORD)
    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", full)
    with pytest.raises(InputError, match="No space left"):
        checkpoints.close()
    monkeypatch.undo()
    restored = Saved.newest(kept).state(state(0))
    assert int(restored.step) == 1 and (restored.trainable["prompt"]["soft"] == 1).all()


def test_a_process_whose_checkpoint_cannot_be_made_ends(kept):
    """Orbax's threads would wait for its folder, and the process for them."""
    program = f"""
import sys
sys.path.insert(0, {str(kept.parent)!r})
from pathlib import Path
from tests.training.test_checkpoint import RECORD, Checkpoints, state
folder = Path({str(kept)!r})
checkpoints = Checkpoints(folder, keep=2, after=1)
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


def written(folder, *steps, keep=2):
    checkpoints = Checkpoints(folder, keep, after=max(Saved.newest(folder).step, 0))
    for step in steps:
        checkpoints.save(state(step), RECORD)
    checkpoints.close()


def test_what_is_read_is_what_was_written(kept):
    saved = Saved.newest(kept)
    assert (saved.step, saved.record, saved.damaged) == (1, RECORD, False)
    assert Saved.newest(kept.parent / "none").record is None


@pytest.mark.parametrize("number", range(3))
def test_arrays_that_are_whole_but_not_those_of_the_record_are_damage(kept, number, caplog):
    """All that Orbax asks of a checkpoint holds: one bit of an array is another, or its type."""
    path = kept / "1" / "state"
    with ocp.StandardCheckpointer() as orbax:
        arrays = orbax.restore(path)
        shutil.rmtree(path)
        name = sorted(arrays)[number]
        array = np.array(arrays[name])
        if array.ndim:
            array.reshape(-1).view(np.uint8)[-1] ^= 1
        else:
            array = array.view(np.float32)
        orbax.save(path, {**arrays, name: array})
    saved = Saved.newest(kept)
    assert saved.record is None and saved.damaged
    assert "(its digest is another): no other is left, the run begins anew" in caplog.text


def test_a_damaged_checkpoint_goes_and_its_step_is_written_again(kept, caplog):
    written(kept, 2)
    (kept / "2" / "record" / "metadata").unlink()
    (kept / "3.orbax-checkpoint-tmp").mkdir()
    assert (Saved.newest(kept).step, Saved.newest(kept).damaged) == (1, True)
    assert f"checkpoint 2 in {str(kept)!r} cannot be used, being damaged (" in caplog.text
    written(kept, 2)
    assert sorted(path.name for path in kept.iterdir()) == ["1", "2"]
    assert (Saved.newest(kept).step, Saved.newest(kept).damaged) == (2, False)


def test_an_old_damaged_checkpoint_stops_no_new_one(kept):
    written(kept, 2)
    for path in (kept / "1").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    written(kept, 3)
    written(kept, 4)
    assert Saved.newest(kept).step == 4 and (kept / "3").exists()


def test_damaged_checkpoints_are_not_kept_in_place_of_a_good_one(kept):
    written(kept, 2, 3, keep=3)
    for step in ("2", "3"):
        (kept / step / "record" / "metadata").write_bytes(b"{}")
    checkpoints = Checkpoints(kept, keep=2, after=Saved.newest(kept).step)
    checkpoints.close()
    assert [path.name for path in kept.iterdir()] == ["1"]


def test_a_checkpoint_of_another_config_is_refused_by_name(kept):
    other = init_state({"prompt": {"soft": jnp.zeros((5, 3))}}, OPTIMIZER)
    says = (
        r"checkpoint 1 in .* is of another config \(trainable.prompt.soft is float32\[2, 3\] there, float32\[5, 3\] by"
    )
    with pytest.raises(InputError, match=says):
        Saved.newest(kept).state(other)
    other = init_state({"prompt": {"soft": jnp.zeros((2, 3))}}, optax.adam(0.1))
    with pytest.raises(InputError, match="is of another config"):
        Saved.newest(kept).state(other)


def test_a_checkpoint_that_cannot_be_read_may_be_good_and_is_kept(kept, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", denied)
    with pytest.raises(
        InputError, match=r"^checkpoint 1 in .* cannot be read \(Permission denied\): look after the disk"
    ):
        Saved.newest(kept)
    monkeypatch.undo()
    monkeypatch.setattr(type(kept), "iterdir", denied)
    with pytest.raises(InputError, match=r"checkpoints' cannot be read \(Permission denied\): look after the disk"):
        Saved.newest(kept)
    monkeypatch.undo()
    assert Saved.newest(kept).step == 1


def test_a_record_of_another_release_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    record = Record.model_construct(**dict(RECORD), extra=1)
    record.members = [Progress.model_construct(best=None)]
    checkpoints.save(state(1), record)
    checkpoints.close()
    with pytest.raises(
        InputError, match=r"^checkpoint 1 in .* is of another release of jaxprompt \(.*members.0.best_step"
    ):
        Saved.newest(tmp_path)


def test_other_libraries_are_a_warning_and_other_data_a_refusal(caplog):
    there = Record(**{**RECORD.model_dump(), "versions": {**RECORD.versions, "jax": "0.1.2"}})
    there.check(RECORD, "run")
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith("run folder 'run' was made with jax 0.1.2 (now ") and "optax" not in said
    with pytest.raises(
        InputError, match=r"^run folder 'run' was made with another backbone \(fingerprint b, now c\): "
    ):
        RECORD.check(Record.of({"backbone": "c"}, [PROGRESS]), "run")
    caplog.clear()
    RECORD.check(RECORD, "run")
    assert not caplog.records
