"""Rows in the place of those that are not at hand."""

import numpy as np
import pytest

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.experiment.data import TrainingData
from jaxprompt.experiment.made_up import made_up


def batch_of(backbone, rows=4, tokens=None, **keys):
    config = jaxprompt.load_config({"model": "model", "data": {"train": "absent.jsonl"}, **keys})
    experiment = made_up(config, backbone, rows, tokens)
    data = TrainingData.load(experiment)
    return experiment, data, data.train[0]


def test_every_example_fills_a_row_of_its_own(stories):
    template, longest = "{soft:4} {text} {target}", {"train": "absent.jsonl", "max_length": 60}
    _, data, batch = batch_of(stories, template=template, data=longest)
    # Shapes are multiples of 8 of what is left behind what all share.
    assert batch.inputs.ids.shape == (4, 56) and len(data.hoisted) >= 4
    real = (batch.inputs.segments > 0).sum(axis=1)
    assert (real == real[0]).all() and 60 - len(data.hoisted) - 3 <= real[0] <= 60 - len(data.hoisted)
    # Half of what is behind the prompt is scored.
    assert 20 <= batch.target_weight[0].sum() <= 28


@pytest.mark.parametrize("tokens", [24, 41])
def test_rows_of_as_many_tokens_as_are_asked_for(stories, tokens):
    _, data, batch = batch_of(stories, 2, tokens, template="{soft:4} {text} {target}")
    real = (batch.inputs.segments > 0).sum(axis=1)
    assert (tokens - 3 <= real).all() and (real <= tokens).all() and data.hoisted


def test_a_template_without_a_text_is_all_target(stories):
    _, _, batch = batch_of(stories, 2, 32, template="{soft:4}{target}")
    assert batch.target_weight.sum(axis=1).min() >= 30


def test_labels_take_turns_and_an_evaluation_has_its_own_size(minilm):
    objective = {"type": "classifier", "labels": ["x", "y", "z"]}
    keys = {"template": "{soft:2} {text}", "objective": objective, "train": {"eval_batch_size": 6}}
    _, data, batch = batch_of(minilm, 4, 20, data={"train": "a.jsonl", "validation": "b.jsonl"}, **keys)
    assert sorted(np.concatenate(batch.answers["label"]).tolist()) == [0, 0, 1, 2]
    assert data.validation.size == 6


def test_choices_are_not_made_up(stories):
    with pytest.raises(InputError, match="takes its candidates from the rows"):
        batch_of(stories, template="{text} {target}", method={"name": "prefix"}, objective={"type": "choices"})
