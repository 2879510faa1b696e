"""A chat in a config: what is learned, kept and written is that of the template that it comes to."""

import copy
import dataclasses
from functools import cached_property

import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.inference.predict import predict_run
from tests.conftest import STORIES

CHAT = [
    {"role": "user", "content": "{soft:3} Is it good? {text}"},
    {"role": "assistant", "content": "{target}"},
]
# As text: what the tokenizer's template below makes of it.
TEMPLATE = "{bos}user: {soft:3} Is it good? {text}{eos}assistant: {target}"


@pytest.fixture(scope="module")
def talking(stories):
    """The real Llama with a chat template."""
    tokenizer = copy.deepcopy(stories.tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content + eos_token }}{% endfor %}"
    )
    backbone = dataclasses.replace(stories, read_tokenizer=lambda: tokenizer)
    assert isinstance(type(backbone).tokenizer, cached_property)
    return backbone


def tree(rows, run_dir, **layout):
    return {
        "model": STORIES,
        **layout,
        "method": {"init": {"top_k": 100}},
        "objective": {"type": "generation"},
        "data": {"train": rows, "validation": rows[:5]},
        "train": {"steps": 3, "batch_size": 4, "eval_start": False},
        "run_dir": str(run_dir),
    }


@pytest.mark.slow
def test_a_chat_is_learned_as_its_template_is(talking, rows, tmp_path, quiet):
    learned = [
        jaxprompt.train(tree(rows, tmp_path / name, **layout), backbone=talking, reporter=quiet)
        for name, layout in (("chat", {"chat": CHAT}), ("template", {"template": TEMPLATE}))
    ]
    assert learned[0].metrics["loss"] == learned[1].metrics["loss"]
    assert "{/s}" not in learned[0].prompt.info["template"]
    assert learned[0].prompt.info["template"].endswith("assistant: {target}{</s>}")
    # The prompt file is enough to write with; the run's folder holds the chat.
    texts = [{"text": row["text"]} for row in rows[:2]]
    assert predict_run(tmp_path / "chat", texts, talking) == predict_run(tmp_path / "template", texts, talking)
    again = jaxprompt.train(tree(rows, tmp_path / "chat", chat=CHAT), backbone=talking, reporter=quiet)
    assert again.metrics == learned[0].metrics
    other = [{**CHAT[0], "content": "{soft:3} Is it bad? {text}"}, CHAT[1]]
    with pytest.raises(InputError, match="holds another experiment"):
        jaxprompt.train(tree(rows, tmp_path / "chat", chat=other), backbone=talking, reporter=quiet)


def test_a_label_ends_no_turn(talking, rows, tmp_path):
    config = tree(rows, tmp_path / "run", chat=CHAT)
    config["objective"] = {"type": "verbalizer", "labels": {"0": "bad", "1": "good"}}
    experiment = build(load_config(config), talking)
    assert experiment.encoder.template.text.endswith("assistant: {target}")
    assert experiment.encoder.layout.target_tail == ()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({}, "config lacks 'template'"),
        ({"chat": CHAT, "template": TEMPLATE}, "both template and chat"),
        ({"chat": [{"role": "user"}]}, "config lacks 'chat.0.content'"),
        ({"chat": [{"role": "user", "content": "{text}", "contents": ""}]}, "unknown config key 'chat.0.contents'"),
        ({"chat": "{text}"}, "config key 'chat' has the value '{text}'"),
        ({"chat": []}, "no turns"),
        ({"chat": [{"role": "user", "content": "{text}"}, CHAT[1]]}, "chat has no {soft:N} slot"),
    ],
)
def test_a_chat_that_is_none_says_so_in_one_line(talking, rows, tmp_path, layout, message):
    with pytest.raises(InputError, match=message.replace("{", r"\{")) as error:
        build(load_config(tree(rows, tmp_path / "run", **layout)), talking)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_a_chat_template_is_named(stories, rows, tmp_path):
    with pytest.raises(InputError, match="no chat template"):
        build(load_config(tree(rows, tmp_path / "run", chat=CHAT)), stories)
