"""`jaxprompt plan`: what it says, and how it refuses."""

import json
import os
import resource
import subprocess
import sys

import pytest

from jaxprompt.commands import main
from jaxprompt.machine import targets
from tests.conftest import MINILM, STORIES

CONFIG = """
model: {model}
template: "{{soft:4}} {{text}} {{target}}"
data: {{train: {train}, max_length: 60}}
train: {{batch_size: 8, steps: 2}}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(model=STORIES, train=tmp_path / "train.jsonl"))
    return str(path)


@pytest.fixture
def rows(tmp_path):
    lines = [json.dumps({"text": "a dog ran " * (1 + n % 2), "target": "home"}) for n in range(16)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))


def planned(capsys, config, *options) -> tuple[dict, list[str], str]:
    """What the command says: its summary, its lines, and what it reports meanwhile."""
    assert main(["plan", config, "--devices", "1", "--simulate", "--json", *options]) == 0
    out, err = capsys.readouterr()
    *lines, summary = out.splitlines()
    return json.loads(summary), lines, err


def test_without_data_rows_are_made_up_and_told(capsys, config):
    summary, lines, _ = planned(capsys, config)
    assert summary["batch"] | {"real_tokens": 0} == {
        **{"rows": 8, "row_tokens": 56, "source_tokens": 0, "accumulated": 1, "real_tokens": 0},
        "from": next(line for line in [summary["batch"]["from"]] if "train.jsonl: no such file" in line),
    }
    (record,) = summary["meshes"]
    assert summary["best"] == record["mesh"] == "1x1x1" and record["fits"]
    assert "8 rows of 56 tokens, made up:" in lines[0]
    assert lines[-1] == "train with mesh.data=1 mesh.fsdp=1 mesh.tensor=1"
    # A quarter of a million parameters in float32.
    assert record["bytes"]["weights"] == pytest.approx(4 * 260e3, rel=0.05)
    assert record["peak_bytes"] == sum(record["bytes"].values())


def test_with_data_rows_are_those_of_the_loop(capsys, config, rows):
    summary, *_ = planned(capsys, config)
    assert summary["batch"]["from"] == "of the data" and summary["batch"]["row_tokens"] < 56
    made, *_ = planned(capsys, config, "--rows", "3", "--tokens", "21")
    assert made["meshes"][0]["rows"] == [3, 21] and "they are asked for" in made["batch"]["from"]


def test_peaks_and_memory_are_the_chips_or_what_is_given(capsys, config):
    first, _, _ = planned(capsys, config, "--target", "v5e")
    assert first["chip"] == "TPU v5e" and first["memory"] == 15.75 * 2**30
    small, lines, _ = planned(capsys, config, "--flops", "1e9", "--memory", "1.1MB")
    (record,) = small["meshes"]
    assert record["seconds"]["kernels"] == pytest.approx(record["compiled_flops"] / 1e9)
    assert small["best"] is None and record["peak_bytes"] > 1.1e6
    assert any(line.endswith("too much") for line in lines) and "no mesh fits" in lines[-1]
    # The weights alone are more than that: it is not even compiled.
    assert "bytes" not in planned(capsys, config, "--memory", "1MB")[0]["meshes"][0]


def test_an_evaluation_of_more_tokens_is_compiled_too(capsys, config):
    more = ["data.validation=absent.jsonl", "train.eval_batch_size=64"]
    summary, lines, _ = planned(capsys, config, *more)
    (record,) = summary["meshes"]
    assert record["evaluation"]["rows"][0] == 64 and any("an evaluation" in line for line in lines)
    assert record["peak_bytes"] == max(sum(record["bytes"].values()), record["evaluation"]["bytes"])
    assert planned(capsys, config, "data.validation=absent.jsonl")[0]["meshes"][0]["evaluation"] is None


def test_labels_that_are_embedded_need_no_weights(capsys, tmp_path):
    path = tmp_path / "config.yaml"
    objective = "{type: similarity, labels: [good, bad, odd]}"
    path.write_text(
        f'model: {MINILM}\ntemplate: "{{soft:2}} {{text}}"\nobjective: {objective}\ndata: {{max_length: 16}}'
    )
    summary, _, _ = planned(capsys, str(path), "train.batch_size=4")
    assert summary["meshes"][0]["bytes"]["prefix_and_labels"] == 3 * 384 * 4
    assert "data.train is not set" in summary["batch"]["from"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "how many devices? give --devices N"),
        (["--devices", "0"], "--devices 0: give a positive number"),
        (["--devices", "8", "--target", "h10"], "no target 'h10' (did you mean 'h100'?"),
        (["--devices", "8", "--memory", "much"], "--memory 'much': give bytes, such as 80GB"),
        (["--devices", "8", "--mesh", "2x2x1"], "--mesh '2x2x1': give data x fsdp x tensor that multiply to 8 devices"),
        (["--topology", "4xy", "--target", "v5e"], "topology '4xy': give chips by axis"),
        (["--devices", "8", "--topology", "4x2"], "--topology '4x2' is of TPUs"),
        (["--devices", "64", "--simulate"], "CPU devices, not 64: plan in a process of its own"),
        (["--devices", "1", "--simulate", "train.batch_size=0"], "train.batch_size"),
        (["--devices", "1", "--simulate", "population.seed=[0, 1]"], "population: plan one prompt"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_line(capsys, config, options, said):
    assert main(["plan", config, *options]) == 2
    out, err = capsys.readouterr()
    assert said in err.splitlines()[-1] and not out


def test_a_compiler_that_is_missing_is_named(capsys, config, monkeypatch):
    monkeypatch.setattr(targets, "missing_compiler", lambda target: "jax[cuda12]")
    assert main(["plan", config, "--devices", "1"]) == 0
    out, err = capsys.readouterr()
    assert "jax[cuda12] is not installed: compiling for CPU devices" in err and "CPU devices in their place" in out


def in_process(*arguments: str, timeout: int = 580) -> dict:
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-m", "jaxprompt", "plan", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_many_devices_are_simulated_and_the_best_mesh_fits(config):
    summary = in_process(config, "--devices", "8", "--simulate", "--compile", "2", "--memory", "2.5MB")
    meshes = [record["mesh"] for record in summary["meshes"]]
    assert len(meshes) == len(set(meshes)) == 10 and summary["best"] == meshes[0]
    compiled = [record for record in summary["meshes"] if "bytes" in record]
    assert len(compiled) >= 2 and compiled[0]["peak_bytes"] <= 2.5e6
    # On eight copies the model is whole, and too large here.
    assert summary["best"] != "8x1x1"


@pytest.mark.slow
def test_gpt3_is_planned_on_64_devices(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(model="random:gpt3-175b", train="absent.jsonl"))
    given = ["dtype=bfloat16", "data.max_length=2048", "train.batch_size=64", "train.remat=full"]
    summary = in_process(str(path), *given, "--devices", "64", "--memory", "80GB")
    # The largest of all children's; how long it takes is in benchmarks/results/plan.md.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 16e9
    best = summary["meshes"][0]
    assert summary["best"] == best["mesh"] and best["fits"]
    _, fsdp, tensor = map(int, best["mesh"].split("x"))
    # Of 175e9 parameters in 16 bits.
    assert best["bytes"]["weights"] == pytest.approx(2 * 175e9 / (fsdp * tensor), rel=0.02)
    # Forward and backward to the inputs, with the layers computed again.
    needed = 4 * 175e9 * summary["batch"]["real_tokens"] / 64
    assert best["needed_flops"] == pytest.approx(needed, rel=0.1)
    assert 1.2 * needed < best["compiled_flops"] < 1.8 * needed


@pytest.mark.slow
@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_chips_that_are_not_here_are_compiled_for(config, target):
    if targets.missing_compiler(targets.TARGETS[target]):
        pytest.skip(f"no compiler for {target}")
    summary = in_process(config, "dtype=bfloat16", "--devices", "4", "--target", target, "--mesh", "1x2x2")
    (record,) = summary["meshes"]
    assert not summary["simulated"] and summary["best"] == "1x2x2"
    # Of so small a model a TPU holds them in the chip's own memory.
    assert (record["bytes"]["activations"] > 0) == (target == "h100") and record["sent_bytes"]["all-gather"] > 0
    assert record["bytes"]["weights"] == pytest.approx(2 * 260e3 / 4, rel=0.1)
