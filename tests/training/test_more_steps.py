"""A run that is given more steps is the run that had them from the start, or is refused with the reason."""

import pytest

import jaxprompt
from jaxprompt.errors import InputError
from tests.training.test_damage import ROWS, timeless
from tests.training.test_loop import config


def tree(run_dir, steps, optimizer=(), **train):
    train = {"steps": steps, "eval_every": 4, "log_every": 2, **train}
    return config(ROWS, run_dir, train=train, optimizer=dict(optimizer))


@pytest.mark.slow
def test_a_finished_run_goes_on_as_if_it_had_not_ended(stories, tmp_path, quiet):
    for name, parts in {"whole": [12], "parts": [4, 8, 12]}.items():
        for steps in parts:
            result = jaxprompt.train(tree(tmp_path / name, steps), backbone=stories, reporter=quiet)
            assert result.metrics["step"] == steps
    for file in ("prompt.safetensors", "result.json"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert timeless(tmp_path / "parts") == timeless(tmp_path / "whole")
    with pytest.raises(InputError, match=r"train\.steps is 12 there, 8 here\): name another"):
        jaxprompt.train(tree(tmp_path / "parts", 8), backbone=stories, reporter=quiet)


@pytest.mark.parametrize(
    ("optimizer", "train", "reason"),
    [
        ({"schedule": "cosine"}, {}, r"4 there, 8 here, and optimizer\.schedule cosine ends with the steps"),
        ({"warmup_steps": 6}, {}, "4 there, 8 here, and the 4 steps were warm-up"),
        ({"learning_rate": 0.0}, {"eval_every": 1, "patience": 1}, r"was stopped at step 1 by train\.patience"),
    ],
)
def test_what_would_have_been_another_run_is_refused(stories, tmp_path, quiet, optimizer, train, reason):
    run_dir = tmp_path / "run"
    jaxprompt.train(tree(run_dir, 4, optimizer, **train), backbone=stories, reporter=quiet)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=reason):
        jaxprompt.train(tree(run_dir, 8, optimizer, **train), backbone=stories, reporter=quiet)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
