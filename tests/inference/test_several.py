"""Rows of several tasks in the same batches are answered as each alone."""

import pytest

from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.several import build_several
from jaxprompt.inference.predict import predict
from jaxprompt.inference.several import predict_several
from tests.away import away_from
from tests.conftest import STORIES

SOFT = {"name": "soft", "init": {"top_k": 50}}
PREFIX = {"name": "prefix", "length": 5, "init": {"top_k": 50}}
TASKS = {
    "write": {"template": "Read. {soft:4}{text} and {target}", "method": SOFT},
    "tell": {"template": "So, {text} was {target}", "method": PREFIX},
    "go_on": {"template": "{soft:2}{text}{target}", "method": SOFT},
    "words": {
        "template": "{soft:7}Now: {text} It is {target}",
        "method": SOFT,
        "objective": {"type": "verbalizer", "labels": {"0": ["bad", "so sad"], "1": "good"}},
    },
    "class": {
        "template": "{text} so",
        "method": PREFIX | {"length": 3},
        "objective": {"type": "classifier", "labels": ["0", "1"]},
    },
}


def learned(backbone, rows, tasks=TASKS):
    config = load_config({"model": STORIES, "tasks": tasks, "data": {"train": rows}})
    experiment = build_several(config, backbone, None, None)
    prompts = {}
    for task, part in experiment.parts.items():
        prompts[task] = part.prompt(away_from(part.init_trainable()))
    return experiment, prompts


def check(experiment, prompts, rows, **options):
    mixed = [{**row, "task": task} for row in rows for task in experiment.parts]
    found = predict_several(experiment, prompts, mixed, **options)
    assert [answer["task"] for answer in found] == [row["task"] for row in mixed]
    for task, part in experiment.parts.items():
        alone = predict(part, prompts[task], rows)
        of_task = [answer for answer in found if answer["task"] == task]
        assert [answer["input"] for answer in of_task] == [answer["input"] for answer in alone]
        assert [answer["prediction"] for answer in of_task] == [answer["prediction"] for answer in alone]
        if "probability" in alone[0]:
            wanted = [answer["probability"] for answer in alone]
            assert [answer["probability"] for answer in of_task] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
def test_rows_of_several_tasks_are_answered_as_each_task_answers_alone(stories, rows):
    check(*learned(stories, rows), rows[:3])


OTHERS = {
    "dept": {"name": "dept", "rank": 2, "text_length": 20, "init": {"top_k": 50}},
    "idpg": {"name": "idpg", "bottleneck": 3, "init": {"top_k": 50}},
    "lora": {"name": "lora", "rank": 3},
    "ia3": {"name": "ia3"},
}


def by(tasks, **methods):
    """The same, some of them by other methods: changes of embeddings, soft rows made from the text, changes of products."""
    return {**tasks, **{task: tasks[task] | {"method": OTHERS[name]} for task, name in methods.items()}}


@pytest.mark.slow
def test_so_do_those_of_methods_that_change_more_than_what_stands_before_the_text(stories, rows):
    check(*learned(stories, rows, by(TASKS, write="dept", go_on="idpg", tell="lora")), rows[:3])
    check(*learned(stories, rows, by(TASKS, words="dept", write="idpg", tell="ia3")), rows[:3])


@pytest.mark.slow
def test_so_does_an_encoder_decoder(seq2seq, rows):
    tasks = {
        "write": {"template": "{soft:4} {text} {target}", "method": SOFT},
        "tell": {"template": "Now {text} {target}", "method": PREFIX},
        "word": {
            "template": "{soft:2} {text} {target}",
            "method": SOFT,
            "objective": {"type": "verbalizer", "labels": {"0": "sad", "1": "happy"}},
        },
    }
    check(*learned(seq2seq, rows, tasks), rows[:3])
    check(*learned(seq2seq, rows, by(tasks, word="dept", write="idpg", tell="lora")), rows[:3])
    check(*learned(seq2seq, rows, by(tasks, write="dept", word="idpg", tell="ia3")), rows[:3])


def test_a_row_that_names_no_task_is_refused(stories, rows):
    experiment, prompts = learned(stories, rows, {name: TASKS[name] for name in ("write", "words")})
    with pytest.raises(InputError, match=r"row 2 has 'wrote' in the column 'task', .*did you mean 'write'"):
        predict_several(experiment, prompts, [{"text": "a", "task": "write"}, {"text": "b", "task": "wrote"}])
