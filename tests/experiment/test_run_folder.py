"""What a run's folder holds: what does not belong to its config is refused, and stays as it is."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.run_folder import open_run
from jaxprompt.inference.predict import evaluate_run, generate_from, predict_run
from jaxprompt.machine.lock import locked
from jaxprompt.prompts import Prompt
from jaxprompt.reports.terminal import Reporter
from jaxprompt.types import Conditioning, Prefix
from jaxprompt.weights.tokenizer import read_tokenizer
from tests.conftest import REVIEWS, STORIES

ROWS = [{"text": text, "label": label} for text, label in REVIEWS[:4]]


def tree(run_dir, **changes):
    return {
        "model": STORIES,
        "template": "{soft:2}{text}",
        "objective": {"type": "classifier"},
        "data": {"train": ROWS, "validation": ROWS},
        "train": {"steps": 1, "batch_size": 4, "eval_start": False},
        "run_dir": str(run_dir),
        **changes,
    }


@pytest.fixture(scope="module")
def finished(stories, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    jaxprompt.train(tree(run_dir), backbone=stories, reporter=Reporter(quiet=True))
    return run_dir


@pytest.fixture
def run_dir(finished, tmp_path, monkeypatch):
    """A copy of a finished run, in the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "run")
    return tmp_path / "run"


def contents(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in folder.rglob("*")
    }


def again(stories):
    return jaxprompt.train(tree("run"), backbone=stories, reporter=Reporter(quiet=True))


def info(**changes):
    return lambda prompt: dataclasses.replace(prompt, info={**prompt.info, **changes})


def without(key):
    return lambda prompt: dataclasses.replace(prompt, info={k: v for k, v in prompt.info.items() if k != key})


def soft(rows, width=64):
    return lambda prompt: dataclasses.replace(
        prompt, conditioning=Conditioning(soft=np.ones((rows, width), np.float32))
    )


def with_prefix(prompt):
    keys = np.zeros((5, 2, 4, 8), np.float32)
    return dataclasses.replace(prompt, conditioning=Conditioning(soft=prompt.soft, prefix=Prefix(keys, keys, 2)))


def head(outputs, width=64):
    def change(prompt):
        arrays = {"weight": np.zeros((outputs, width), np.float32), "bias": np.zeros(outputs, np.float32)}
        return dataclasses.replace(prompt, head=arrays)

    return change


FOREIGN = {
    "another method": (info(method="low_rank"), "its method is 'low_rank', by config.yaml 'soft'"),
    "another template": (info(template="{soft:2} {text}"), "its template is '{soft:2} {text}'"),
    "another objective": (info(objective={"type": "regression"}), "its objective.type is 'regression'"),
    "other options": (info(objective={"type": "classifier", "pool": "first"}), "its objective.pool is 'first'"),
    "one label": (info(labels=["0"]), "objective.labels has 1 label"),
    "more labels": (info(labels=["0", "1", "2"]), "its head is"),
    "the same label twice": (info(labels=["0", "0"]), "label"),
    "no labels": (without("labels"), "its labels is None"),
    "no template": (without("template"), "its template is None"),
    "no description": (lambda prompt: Prompt(prompt.conditioning, prompt.head), "its method is None"),
    "a longer prompt": (soft(8), "the number of its soft rows is 8, by config.yaml 2"),
    "a shorter prompt": (soft(1), "the number of its soft rows is 1, by config.yaml 2"),
    "no prompt": (lambda prompt: dataclasses.replace(prompt, conditioning=Conditioning()), "soft rows is 0"),
    "a prefix beside": (with_prefix, "the length of its prefix is 2, by config.yaml 0"),
    "a larger head": (head(3), "its head is {'bias': (3,), 'weight': (3, 64)}, by config.yaml {'bias': (2,)"),
    "no head": (lambda prompt: dataclasses.replace(prompt, head={}), "its head is {}"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_prompt_of_another_run_is_refused_by_all_that_would_use_it(run_dir, stories, case):
    change, says = FOREIGN[case]
    jaxprompt.save_prompt(change(jaxprompt.load_prompt(run_dir)), run_dir)
    refused(run_dir, says, lambda: evaluate_run("run", backbone=stories))
    refused(run_dir, says, lambda: predict_run("run", ["a gem"], stories))
    refused(run_dir, says, lambda: generate_from("run", ["a gem"]))
    refused(run_dir, says, lambda: again(stories))


def refused(run_dir, says, use):
    before = contents(run_dir)
    with pytest.raises(InputError) as error:
        use()
    message = str(error.value)
    assert message.startswith("prompt.safetensors in 'run' is not the one that the run wrote (") and says in message
    assert message.endswith("): put that back") and "\n" not in message
    assert contents(run_dir) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (soft(2, 32), "the prompt is 32 wide, the backbone .* takes 64 wide ones: use the backbone it was learned for"),
        (head(2, 32), "the prompt's head is 32 wide, the backbone .* is 64: use the backbone it was learned for"),
        (info(backbone={"fingerprint": "0" * 16}), "learned for another backbone than .*: use the backbone it was"),
        (info(tokenizer="0" * 16), "learned with another tokenizer than that of .*: put the tokenizer back"),
    ],
)
def test_a_prompt_of_another_model_is_refused_by_all_that_would_use_it(run_dir, stories, change, says):
    jaxprompt.save_prompt(change(jaxprompt.load_prompt(run_dir)), run_dir)
    before = contents(run_dir)
    for use in (
        lambda: evaluate_run("run", backbone=stories),
        lambda: predict_run("run", ["a gem"], stories),
        lambda: again(stories),
    ):
        with pytest.raises(InputError, match=says):
            use()
        assert contents(run_dir) == before


def test_another_tokenizer_under_a_finished_run_is_refused(run_dir, stories):
    """Two of its tokens have changed places."""
    shutil.copytree(STORIES, "other")
    path = Path("other/tokenizer.json")
    text = path.read_text()
    path.write_text(text.replace('"[":', '"\0":').replace('"]":', '"[":').replace('"\0":', '"]":'))
    other = dataclasses.replace(stories, read_tokenizer=lambda: read_tokenizer(Path("other")))
    before = contents(run_dir)
    with pytest.raises(InputError, match=r"learned with another tokenizer than that of .*: put the tokenizer back"):
        evaluate_run("run", backbone=other)
    assert contents(run_dir) == before
    # As older files are: nothing is known of the tokenizer.
    jaxprompt.save_prompt(without("tokenizer")(jaxprompt.load_prompt(run_dir)), run_dir)
    assert len(predict_run("run", ["a gem"], other)) == 1


def written(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def a_folder(name):
    def put(folder):
        path = folder / name
        path.unlink() if path.is_file() else None
        path.mkdir(exist_ok=True)
        (path / "notes.txt").write_text("mine")

    return put


def a_file(folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").write_text("mine")


HOSTILE = {
    "metrics of text": (written("metrics.jsonl", b"dear diary\nmore"), "metrics.jsonl' line 1 is no record of a run"),
    "metrics of one line": (written("metrics.jsonl", b"dear diary"), "metrics.jsonl' line 1 is no record of a run"),
    "metrics of other keys": (written("metrics.jsonl", b'{"epoch": 1}\n'), "metrics.jsonl' line 1 is no record"),
    "metrics of texts": (written("metrics.jsonl", b'{"step": "1"}\n'), "metrics.jsonl' line 1 is no record"),
    "metrics of lists": (written("metrics.jsonl", b'{"step": 1}\n[1]\n'), "metrics.jsonl' line 2 is no record"),
    "binary metrics": (written("metrics.jsonl", b"\x89PNG\r\n\xff\0"), "metrics.jsonl' line 1 is no record"),
    "deep metrics": (written("metrics.jsonl", b"[" * 100_000), "metrics.jsonl' line 1 is no record"),
    "metrics are a folder": (a_folder("metrics.jsonl"), "metrics.jsonl' is no file: move it away"),
    "another result": (written("result.json", b'{"accuracy": 1}'), "result.json' is not the result of a run"),
    "result of text": (written("result.json", b"it was good"), "result.json' is not the result of a run"),
    "result of a list": (written("result.json", b"[]"), "result.json' is not the result of a run"),
    "result is a folder": (a_folder("result.json"), "result.json' is no file: move it away"),
    "prompt is a folder": (a_folder("prompt.safetensors"), "prompt.safetensors' is no file: move it away"),
    "prompt is cut": (written("prompt.safetensors", b"\x10"), "cannot be read"),
    "prompt is gone": (lambda folder: (folder / "prompt.safetensors").unlink(), "holds no prompt.safetensors"),
    "checkpoints are a file": (a_file, "checkpoints' is no folder: move it away"),
    "config is cut": (written("config.yaml", b"model: ["), "config.yaml' is not YAML"),
    "config is a folder": (a_folder("config.yaml"), "config.yaml' cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_run_cannot_have_written_stops_it_before_it_writes(run_dir, stories, case):
    change, says = HOSTILE[case]
    change(run_dir)
    before = contents(run_dir)
    with pytest.raises(InputError) as error:
        again(stories)
    message = str(error.value)
    assert says in message and "run" in message and "\n" not in message
    assert contents(run_dir) == before


def test_a_refused_run_leaves_a_config_of_another_machine_as_it_is(run_dir, stories):
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("remat: dots", "remat: full"))
    before = contents(run_dir)
    with pytest.raises(InputError, match="another backbone"):
        again(dataclasses.replace(stories, fingerprint="f" * 16))
    assert contents(run_dir) == before
    again(stories)
    assert (config.stat().st_mtime_ns, config.read_bytes()) == before[config]


KILL = """
import sys
from pathlib import Path
import jaxprompt
from tests.experiment.test_run_folder import tree
from jaxprompt.machine import files
from jaxprompt.training import member
import os

def die(*_):
    os.kill(os.getpid(), 9)

if sys.argv[1] == "mkdir":
    member.whole_file = die
else:
    files.os.fsync = die
jaxprompt.train(tree("run", data={"train": tree("run")["data"]["train"]}))
"""


@pytest.mark.parametrize("at", [pytest.param("mkdir", marks=pytest.mark.slow), "config"])
def test_a_run_that_is_killed_before_it_has_a_config_begins_in_the_same_folder(stories, tmp_path, monkeypatch, at):
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(jaxprompt.__file__).parent.parent)}
    killed = subprocess.run([sys.executable, "-c", KILL, at], env=environment, check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    left = {path.name for path in Path("run").iterdir()}
    assert ".lock" in left and len(left) == (1 if at == "mkdir" else 2)
    Path("run/ahead").mkdir()
    again(stories)
    assert {path.name for path in Path("run").iterdir() if path.name[0] == "."} == set()
    assert Path("run/result.json").exists()


def test_what_a_kill_left_in_the_folders_goes(run_dir, stories):
    left = [run_dir / name for name in (".metrics.jsonl.host.12.tmp", "checkpoints/7.orbax-checkpoint-tmp/state/x")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    mine = run_dir / ".notes"
    mine.write_bytes(b"mine")
    again(stories)
    assert mine.exists() and not any(path.exists() for path in left)
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["1"]


def test_a_folder_that_another_process_writes_is_refused(run_dir, stories):
    before = contents(run_dir)
    with locked(run_dir), pytest.raises(InputError, match="is being written by process") as error:
        again(stories)
    assert "\n" not in str(error.value) and contents(run_dir) == before
    with locked(run_dir):  # reading is another thing
        assert len(predict_run("run", ["a gem"], stories)) == 1


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "y" * 5000])
def test_a_name_that_no_folder_can_have_is_refused(stories, name):
    for use in (evaluate_run, lambda name: predict_run(name, ["a gem"]), lambda name: generate_from(name, ["a gem"])):
        with pytest.raises(InputError) as error:
            use(name)
        assert "cannot be read (" in str(error.value) and str(error.value).endswith("name another folder")
        assert "\n" not in str(error.value)


def test_a_folder_that_may_not_be_looked_into_is_refused(stories, tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(InputError, match=r"closed' cannot be read \(Permission denied\): name another folder$"):
        jaxprompt.train(tree(tmp_path / "closed"), backbone=stories, reporter=Reporter(quiet=True))


@pytest.mark.parametrize(
    "keys",
    [
        {
            "template": None,
            "chat": [{"role": "user", "content": "{soft:2}{text}"}, {"role": "assistant", "content": "{target}"}],
        },
        {"method": {"name": "together", "parts": [{"name": "soft"}, {"name": "lora"}]}},
    ],
)
def test_a_run_without_a_folder_gets_one_by_what_it_is(keys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, same, other = (load_config(tree("", **keys, seed=seed) | {"run_dir": None}) for seed in (0, 0, 1))
    assert open_run(one) == open_run(same) != open_run(other)
    assert open_run(one).parent.name == "runs" and not list(tmp_path.iterdir())
