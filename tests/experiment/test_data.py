"""From rows to batches: what errors name, and what a batch costs."""

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.data.order import Order
from jaxprompt.data.sources import open_source
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData, make_loader
from jaxprompt.inference.predict import predict
from jaxprompt.prompts import Prompt
from jaxprompt.types import Conditioning


def experiment(stories, rows, **sections):
    tree = {
        "model": "stories260K",
        "template": "{soft:2}{text}{target}",
        "method": {"init": {"type": "uniform"}},
        "data": {"train": rows, "validation": rows},
    }
    return build(load_config({**tree, **sections}), stories)


def test_a_field_that_no_row_has_is_refused_with_the_file(stories, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"txet": "a", "target": "b"}\n')
    with pytest.raises(InputError, match=r"^rows\.jsonl: unknown field 'text' in template \(did you mean 'txet'\?\)$"):
        TrainingData.load(experiment(stories, "rows.jsonl"))


@pytest.mark.parametrize("objective", ["generation", "verbalizer"])
def test_what_is_wrong_with_a_row_to_answer_is_told_with_its_file(stories, tmp_path, monkeypatch, objective):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "well"}\n{"text": null}\n')
    labels = {"labels": {"0": "bad", "1": "good"}} if objective == "verbalizer" else {}
    parts = experiment(stories, [], objective={"type": objective, **labels})
    info = {"template": parts.config.template}
    prompt = Prompt(Conditioning(soft=np.ones((2, 64), np.float32)), info=info)
    with pytest.raises(InputError, match=r"^rows\.jsonl: row 2: field 'text' is None"):
        predict(parts, prompt, open_source("rows.jsonl"))
    with pytest.raises(InputError, match=r"^row 2: field 'text' is None"):
        predict(parts, prompt, [{"text": "well"}, {"text": None}])
    Path("rows.jsonl").write_text('{"text": "well"}\n{"text": "good"}\n')
    answers = predict(parts, prompt, open_source("rows.jsonl"))
    assert answers == predict(parts, prompt, [{"text": "well"}, {"text": "good"}])
    assert [answer["input"] for answer in answers] == ["well", "good"]


@pytest.mark.parametrize("accumulate", [1, 8])
def test_a_batch_larger_than_the_data_costs_no_more_than_it(stories, rows, accumulate):
    start = time.monotonic()
    train = {"batch_size": 2**20, "accumulate": accumulate}
    data = TrainingData.load(experiment(stories, rows, train=train))
    batch = next(data.train_batches(0))
    parts = [batch] if accumulate == 1 else batch
    assert time.monotonic() - start < 5
    found = np.concatenate([part.index[part.index >= 0] for part in parts])
    # In equal parts, so that a few rows may come twice.
    assert len(found) == data.batch_size == 16 - 4 * (accumulate == 1)
    assert sorted({*found.tolist()}) == list(range(12))


def test_a_text_of_a_file_that_is_too_long_is_told_with_the_file(stories, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(f'{{"text": "well"}}\n{{"text": "{"word " * 600}"}}\n')
    with pytest.raises(InputError, match=r"^rows\.jsonl: text 2: a context of \d+ tokens"):
        jaxprompt.generate(
            stories, open_source("rows.jsonl"), Prompt(info={"template": "{text}{target}", "max_length": 5000})
        )


def test_a_run_compiles_for_one_row_count_unless_it_is_long(stories, rows, monkeypatch):
    """On an accelerator a program takes as long to compile as many more steps."""
    long = [{**row, "text": " ".join([row["text"]] * (1 + n % 5))} for n, row in enumerate(4 * rows)]

    def counts(platform, steps):
        chip = SimpleNamespace(platform=platform)
        mesh = SimpleNamespace(
            devices=np.array([chip]), shape={"data": 1, "fsdp": 1, "tensor": 1}, size=1, is_multi_process=False
        )
        here = experiment(stories, long, train={"steps": steps, "batch_size": 6})
        here = dataclasses.replace(here, backbone=dataclasses.replace(stories, mesh=mesh))
        return make_loader(here, here.encode(long), Order(len(long), 6)).plan.rows

    assert len(counts("cpu", 10**6)) == 2 == len(counts("gpu", 10**9))
    assert len(counts("cpu", 300)) == len(counts("gpu", 10**6)) == len(counts("tpu", 300)) == 1
