"""Chats: the ids of the tokenizer's own chat template around the same texts."""

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from jaxprompt.errors import InputError
from jaxprompt.text.chat import chat_template, parse_turns
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.templates import parse_template

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = ["<|start|>", "<|end|>", "<|header|>", "<bos>", "<eos>"]
# The forms of ChatML, Llama 2, Llama 3, Gemma and of one without special tokens, as their repositories have them.
CHATS = {
    "chatml": "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' + '\n' }}{% endfor %}",
    "llama2": "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ '<<SYS>>\n' + m['content'] + '\n<</SYS>>' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama3": "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|header|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + '<eos>' }}{% endfor %}",
    "gemma": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{{ '<|start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + '<|end|>\n' }}"
    "{% endfor %}",
    "plain": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}",
}
TURNS = [
    {"role": "user", "content": "{a} {{of}} {b}"},
    {"role": "assistant", "content": "Well."},
    {"role": "user", "content": " And {b}"},
    {"role": "assistant", "content": "{target}"},
]


# Those that have a token for a line break.
@pytest.fixture(params=["gpt2", "roberta", "llama"])
def tokenizer(request):
    base = request.getfixturevalue(request.param)
    backend = Tokenizer.from_str(base.backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(name) for name in NAMES])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")


def encoder_of(turns, tokenizer, ends=True):
    template = parse_template(chat_template(turns, tokenizer, ends=ends))
    return RowEncoder(template, tokenizer, vocab_size=len(tokenizer), causal=True, max_length=400, scores_eos=ends)


def filled(turns, row):
    return [{"role": t["role"], "content": t["content"].format_map(row)} for t in turns]


@pytest.mark.parametrize("form", CHATS)
def test_ids_are_those_of_the_tokenizers_own_chat(tokenizer, form):
    tokenizer.chat_template = CHATS[form]
    encoder = encoder_of(TURNS, tokenizer)

    @quick
    @given(a=st.text(max_size=8), b=st.text(max_size=8), target=st.text(max_size=8))
    @example(a=" \n", b="  it ", target=" well ")
    @example(a="", b="", target="x")
    def check(a, b, target):
        assume(not any(name in a + b + target for name in NAMES))
        row = {"a": a, "b": b}
        whole = tokenizer.apply_chat_template(
            filled(TURNS, {**row, "target": target}), tokenize=True, return_dict=False
        )

        try:
            written = encoder.target_ids(target)
        except InputError as error:
            assume("merges" not in str(error))
            raise
        ours = [*encoder.trunk(row).ids, *written]
        if form == "plain":  # nothing ends a turn: the tokenizer's own end of text does
            assert ours[-1] == tokenizer.eos_token_id
            ours = ours[:-1]
        assert ours == whole[: len(ours)]
        text = tokenizer.decode(whole[len(ours) :])
        assert not text.strip()

    check()


def test_soft_slots_stand_in_a_turn_and_special_tokens_by_hand(tokenizer):
    tokenizer.chat_template = CHATS["chatml"]
    turns = [{"role": "user", "content": "{soft:3}{a}{soft:2}"}, {"role": "assistant", "content": "{target}"}]
    text = chat_template(turns, tokenizer, ends=True)
    assert "{<|start|>}user\n{soft:3}{a}{soft:2}{<|end|>}\n{<|start|>}assistant\n{target}{<|end|>}" in text
    ids = encoder_of(turns, tokenizer).trunk({"a": "the film<|end|>"}).ids
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert ids.count(end) == 1  # what a field says is text
    assert [i - len(tokenizer) for i in ids if i >= len(tokenizer)] == [0, 1, 2, 3, 4]


def test_nothing_is_put_around_a_chat_that_places_no_token(llama):
    llama.chat_template = CHATS["plain"]
    turns = [{"role": "user", "content": "{a}"}, {"role": "assistant", "content": "{target}"}]
    ids = encoder_of(turns, llama).trunk({"a": "it"}).ids
    assert llama.bos_token_id not in ids
    assert ids == llama("user: it\nassistant: ", add_special_tokens=False)["input_ids"][: len(ids)]


def test_the_end_of_the_turn_is_written_where_text_is_and_not_behind_label_words(tokenizer):
    tokenizer.chat_template = CHATS["llama3"]
    assert chat_template(TURNS, tokenizer, ends=True).endswith("{target|trim}{<eos>}")
    assert chat_template(TURNS, tokenizer, ends=False).endswith("{target|trim}")
    assert encoder_of(TURNS, tokenizer, ends=False).target_ids(" good ")[-1] != tokenizer.eos_token_id


USER = {"role": "user", "content": "{a}"}


@pytest.mark.parametrize(
    ("turns", "form", "message"),
    [
        ([], "chatml", "no turns"),
        ([{"role": "user", "content": "{a"}], "chatml", "unbalanced"),
        ([{"role": "user", "content": "{mask}"}], "chatml", "turn 1 of chat has {mask}"),
        ([{"role": "user", "content": "{target}"}, USER], "chatml", "turn 1 of chat has {target}"),
        ([USER, {"role": "assistant", "content": "{target}."}], "chatml", "turn 2 of chat has {target}"),
        ([{"role": "user", "content": "a<|end|>"}], "chatml", "special token of this tokenizer"),
        ([{"role": "system", "content": "x"}, USER], "gemma", "System role not supported"),
        ([USER], "{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out"),
        ([USER], "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "repeats"),
        ([USER], "{% for m in messages %}{{ m.content", "does not take the turns of user"),
        (
            [USER, {"role": "assistant", "content": "{target}"}],
            "{% for m in messages %}{{ m.content }}.{% endfor %}",
            "writes '.'",
        ),
        ([USER], None, "no chat template"),
    ],
)
def test_a_chat_that_cannot_be_says_so_in_one_line(tokenizer, turns, form, message):
    tokenizer.chat_template = CHATS.get(form, form)
    with pytest.raises(InputError) as error:
        chat_template(turns, tokenizer, ends=True)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_contents_are_templates():
    assert [content.fields for content in parse_turns(TURNS)] == [("a", "b"), (), ("b",), ()]
