"""Tasks: every preset, in every form, is a config that an experiment can be built of."""

import json
import shutil

import pytest

from jaxprompt.backbone.form import form_of
from jaxprompt.config import flat, load_config, tasks
from jaxprompt.errors import InputError
from jaxprompt.text.templates import parse_template
from tests.conftest import GOLDEN, MINILM, STORIES

FORMS = [(name, form) for name in tasks.names() for form in tasks.read(name)["forms"]]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_preset_is_a_config(name, form):
    config = load_config({"model": "m", "task": name, "form": form, "prompt_length": 7})
    parts = [config.template] if config.chat is None else [turn.content for turn in config.chat]
    parsed = [parse_template(part) for part in parts]
    assert sum(part.soft_length for part in parsed) == 7
    fields = {field for part in parsed for field in part.fields}
    assert fields or name in ("tinystories",)
    assert "{prompt}" not in "".join(parts)
    needs = {
        "classifier": None,
        "similarity": None,
        "regression": None,
        "verbalizer": "mask" if form == "masked" else "target",
    }
    wanted = needs.get(config.objective.type, "target")
    assert {part for part in ("mask", "target") if any(getattr(p, f"has_{part}") for p in parsed)} == (
        {wanted} - {None}
    )
    # Without slots where the method fills none.
    bare = load_config({"model": "m", "task": name, "form": form, "method": {"name": "none"}})
    parts = [bare.template] if bare.chat is None else [turn.content for turn in bare.chat]
    assert sum(parse_template(part).soft_length for part in parts) == 0
    # A run keeps all of it, and reads the same again.
    assert load_config(config) == config and flat(load_config(config.model_dump())) == flat(config)
    assert tasks.about(name) and tasks.read(name)["kind"]


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (STORIES, "causal"),
        (MINILM, "encoder"),
        (GOLDEN / "bert-untied", "masked"),
        (GOLDEN / "t5", "seq2seq"),
        ("random:gpt2-small", "causal"),
    ],
)
def test_the_form_is_that_of_the_model(model, form):
    assert form_of(model) == form


def test_a_tokenizer_with_a_chat_template_is_spoken_to(tmp_path):
    shutil.copytree(STORIES, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**settings, "chat_template": "{{ messages }}"}))
    assert form_of(tmp_path) == "chat"
    assert load_config({"model": str(tmp_path), "task": "glue/sst2"}).chat[0].role == "user"


def test_what_a_config_says_has_the_last_word():
    config = load_config(
        {
            "model": "m",
            "form": "causal",
            "task": "glue/sst2",
            "data": {"train": "mine.csv"},
            "objective": {"labels": ["a", "b"]},
        }
    )
    assert (config.data.train, config.data.validation, config.objective.labels) == ("mine.csv", None, ["a", "b"])
    config = load_config({"model": "m", "form": "causal", "task": "glue/sst2", "objective": {"type": "generation"}})
    assert config.objective.type == "generation" and config.evaluation.metrics == []
    config = load_config({"model": "m", "task": "glue/sst2", "template": "{soft:3}{x} {target}"})
    assert config.template == "{soft:3}{x} {target}" and config.objective.type == "generation"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"task": "glue/sst"}, "unknown task 'glue/sst' (did you mean 'glue/sst2'?)"),
        ({"task": "squad", "form": "masked"}, "task 'squad' has no form 'masked'"),
        ({"task": "squad", "form": "mask"}, "has no form 'mask', of such models"),
        ({"task": 3}, "'task'"),
        ({"task": "glue/sst2", "model": None, "form": None}, "config lacks 'model'"),
    ],
)
def test_a_task_that_is_none_says_so_in_one_line(keys, message):
    with pytest.raises(InputError) as error:
        load_config({"model": "m", "form": "causal", **keys})
    assert message in str(error.value) and "\n" not in str(error.value)
