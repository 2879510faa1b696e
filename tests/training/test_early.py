"""What is done while the weights load: the same run, by programs that were compiled before."""

import json
import shutil
import threading

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.backbone import load_backbone
from jaxprompt.errors import InputError
from jaxprompt.machine.ahead import Ahead, shape_of
from jaxprompt.machine.background import Background
from jaxprompt.training import alone, loop
from jaxprompt.weights import loader
from tests.conftest import GOLDEN, STORIES
from tests.devices import run_on_eight_devices
from tests.training.test_loop import config, records


@pytest.fixture
def watched(monkeypatch):
    """The train steps of the runs to come."""
    real, steps = alone.make_train_step, []

    def make_train_step(*args):
        steps.append(real(*args))
        return steps[-1]

    monkeypatch.setattr(alone, "make_train_step", make_train_step)
    return steps


def timeless(run_dir):
    return [{k: v for k, v in record.items() if "second" not in k} for record in records(run_dir)]


CASES = {
    "hard": {"template": "A {soft:3} Review: {text} It was {target}"},
    "hard text first": {"template": "Review: {soft:3} {text} It was {target}", "unroll": True},
    "int8": {"quantize": "int8", "unroll": True, "method": {"name": "low_rank", "rank": 2}},
    "prefix": {"template": "{text} It was {target}", "method": {"name": "prefix", "length": 2, "init": {"type": "text", "text": "so good"}}},
    "head": {"template": "{soft:2}{text}", "objective": {"type": "classifier"}, "quantize": "int4"},
    "similarity": {"template": "{soft:2}{text}", "objective": {"type": "similarity", "labels": {"0": "bad", "1": "good"}}},
}  # fmt: skip


@pytest.mark.parametrize(
    "case", ["hard", *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "hard")]
)
def test_the_step_is_compiled_ahead_and_the_run_is_the_same(rows, tmp_path, quiet, watched, monkeypatch, case):
    changes = {"train": {"steps": 4, "eval_every": 2, "log_every": 1}, **CASES[case]}
    jaxprompt.train(config(rows, tmp_path / "early", **changes), reporter=quiet)
    (step,) = watched
    assert step.jitted.programs() == 0 and step.ahead.programs
    # As a step is compiled without any of this.
    monkeypatch.setattr(Ahead, "begin", lambda *args: None)
    monkeypatch.setattr(loop.Background, "begin", lambda self, work: [_Done(work())])
    jaxprompt.train(config(rows, tmp_path / "plain", **changes), reporter=quiet)
    assert watched[1].jitted.programs() > 0
    assert timeless(tmp_path / "early") == timeless(tmp_path / "plain")
    names = ("early", "plain")
    one, other = ((tmp_path / name / "prompt.safetensors").read_bytes() for name in names)
    assert one == other


class _Done:
    """The future of work that was not done in the background."""

    def __init__(self, value):
        self.result, self.done, self.exception, self.cancelled = (lambda: value), (lambda: True), (lambda: None), bool

    def add_done_callback(self, tell):
        tell(self)


@pytest.mark.parametrize(
    ("name", "unroll", "quantize"),
    [
        (STORIES, False, None),
        (STORIES, True, "int4"),
        (str(GOLDEN / "t5"), True, "int8"),
        pytest.param("random:t5-v1_1-small", False, "int8", marks=pytest.mark.slow),
        pytest.param("random:t5-v1_1-small", True, None, marks=pytest.mark.slow),
    ],
)
def test_shapes_are_those_of_the_weights(name, unroll, quantize):
    with Background() as background:
        begun = load_backbone(name, dtype="bfloat16", quantize=quantize, unroll=unroll, background=background)
        loaded = begun.loaded()
    assert begun.unrolled == loaded.unrolled == unroll
    assert (begun.fingerprint, loaded.fingerprint) == ("", load_backbone(name).fingerprint)
    same(begun.params, loaded.params)


def same(shapes, arrays):
    def check(shape, array):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
        assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)

    jax.tree.map(check, shapes, arrays)


EIGHT_DEVICES = """
import json, sys
import jax, jaxprompt
from jaxprompt.reports.terminal import Reporter
from jaxprompt.training import alone

real, steps = alone.make_train_step, []
alone.make_train_step = lambda *args: steps.append(real(*args)) or steps[-1]
for tree in json.loads(sys.argv[1]):
    jaxprompt.train(tree, reporter=Reporter(quiet=True))
    assert steps.pop().jitted.programs() == 0, tree
print("ahead")
"""


@pytest.mark.slow
def test_the_programs_fit_where_things_lie_on_eight_devices(rows, tmp_path):
    trees = [
        {**config(rows, tmp_path / str(number), train={"steps": 3}), "mesh": {"fsdp": 2, "tensor": 2}, **more}
        for number, more in enumerate(({}, {"unroll": True, "template": "Rate {soft:3} {text} {target}"}))
    ]
    assert run_on_eight_devices(EIGHT_DEVICES, json.dumps(trees)).splitlines()[-1] == "ahead"


def test_other_shapes_and_places_go_through_the_jitted_function():
    calls = []

    @jax.jit
    def double(frozen, state, batch):
        calls.append(batch.shape)
        return frozen * state * batch

    ahead = Ahead(double)
    with Background() as background:
        one = jax.numpy.ones(())
        ahead.begin(
            background, [(shape_of(one), shape_of(one), jax.ShapeDtypeStruct((n,), np.float32)) for n in (2, 3)]
        )
        for n in (2, 3, 2):
            np.testing.assert_array_equal(ahead(one, one, jax.numpy.ones(n)), np.ones(n))
        assert (calls, double._cache_size()) == ([(2,), (3,)], 0)
        assert ahead.seconds(jax.numpy.ones(2)) > 0 and ahead.seconds(jax.numpy.ones(4)) is None
        np.testing.assert_array_equal(ahead(one, one, jax.numpy.ones(4)), np.ones(4))
        assert double._cache_size() == 1


def test_what_a_compilation_raises_is_raised_by_the_call():
    def fails(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED: no room")

    ahead = Ahead(jax.jit(fails))
    with Background() as background:
        ahead.begin(background, [(1.0, 1.0, jax.ShapeDtypeStruct((2,), np.float32))])
        with pytest.raises(RuntimeError, match="no room"):
            ahead(1.0, 1.0, np.ones(2, np.float32))


def damaged(folder, change):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(STORIES, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return str(folder)


def test_weights_that_cannot_be_read_are_told_in_one_line_and_nothing_is_written(rows, tmp_path, quiet):
    def infinite(weights):
        weights["model.norm.weight"][0] = np.inf

    model = damaged(tmp_path / "model", infinite)
    with pytest.raises(InputError, match="hold NaN or infinities") as error:
        load_backbone(model)
    with pytest.raises(InputError) as early:
        jaxprompt.train({**config(rows, tmp_path / "run"), "model": model}, reporter=quiet)
    assert str(early.value) == str(error.value) and "\n" not in str(early.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"missing: norm\.weight"):
        model = damaged(tmp_path / "less", lambda weights: weights.pop("model.norm.weight"))
        jaxprompt.train({**config(rows, tmp_path / "run"), "model": model}, reporter=quiet)


def test_bad_data_and_starts_do_not_wait_for_the_weights(rows, tmp_path, quiet, monkeypatch):
    asked, goes_on = [], threading.Event()
    real = loader.Stored.read

    def slow(self, stopped):
        goes_on.wait(60)
        asked.append(stopped())
        return real(self, stopped)

    monkeypatch.setattr(loader.Stored, "read", slow)
    for change, says in (
        ({"template": "{soft:3} {txet} {target}"}, "unknown field"),
        ({"method": {"init": {"type": "file", "path": "nowhere"}}}, "'nowhere' does not exist"),
    ):
        with pytest.raises(InputError, match=says):
            jaxprompt.train(config(rows, tmp_path / "run", **change), reporter=quiet)
    assert not asked and not (tmp_path / "run").exists()
    before = set(threading.enumerate())
    goes_on.set()
    for thread in before - {threading.main_thread()}:
        if thread.name == "jaxprompt background":
            thread.join(60)
    assert asked == [True, True]
