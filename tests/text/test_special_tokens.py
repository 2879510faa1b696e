"""Special tokens by their own names in templates, and what is scored behind a target."""

import logging

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from jaxprompt.errors import InputError
from jaxprompt.text.hoisting import drop_prefix, hoist_length
from jaxprompt.text.templates import parse_template
from tests.tokenizers import encoding

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = ["<|start|>", "<|end|>", "<extra_id_0>", "<extra_id_1>"]


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(params=["gpt2", "roberta", "llama", "metaspace_first", "metaspace_always"])
def chat(request):
    """A tokenizer with special tokens that no role names, one of which swallows the white space around it."""
    base = request.getfixturevalue(request.param)
    backend = Tokenizer.from_str(base.backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(name, lstrip=name == "<|end|>", rstrip=name == "<|end|>") for name in NAMES])
    backend.add_tokens(["<tool>", "word"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{k: str(v) for k, v in base.special_tokens_map.items()})


TEMPLATE = "{<|start|>}user {a}{<|end|>} \n{b} and{<|start|>} x {a}{<extra_id_0>}"


def test_text_with_named_tokens_is_tokenised_as_the_tokenizer_does(chat, make_encoder):
    encoder = make_encoder(TEMPLATE, chat)
    around = [*encoder.tokens.leading], [*encoder.tokens.trailing]

    @quick
    @given(a=st.text(max_size=10), b=st.text(max_size=10))
    @example(a=" ", b=" it ")
    @example(a="\x1f", b="\x1f\n")
    def check(a, b):
        text = f"<|start|>user {a}<|end|> \n{b} and<|start|> x {a}<extra_id_0>"
        assume(not any(name in a + b for name in chat.get_added_vocab()))
        assert encoder.encode({"a": a, "b": b}).ids.tolist() == [*around[0], *plain(chat, text), *around[1]]

    check()


def test_a_name_in_a_field_is_text_and_a_plain_word_is_a_column(chat, make_encoder):
    encoder = make_encoder("{soft:1}{<extra_id_0>}{text}{soft:1}{<tool>}{word}", chat)
    special = {name: chat.convert_tokens_to_ids(name) for name in NAMES}
    ids = encoder.encode({"text": "a<extra_id_0> <|end|>", "word": "b"}).ids.tolist()
    assert [i for i in ids if i in special.values()] == [special["<extra_id_0>"]]
    assert chat.convert_tokens_to_ids("<tool>") in ids
    assert encoder.template.fields == ("text", "word")
    assert ids.index(special["<extra_id_0>"]) == 1 + len(encoder.tokens.leading)


def test_an_end_by_name_is_by_hand_and_another_token_is_not(llama, make_encoder):
    by_name = make_encoder("{<s>}{text}{</s>}", llama).encode({"text": "good"}).ids.tolist()
    assert by_name == make_encoder("{bos}{text}{eos}", llama).encode({"text": "good"}).ids.tolist()
    assert by_name == [1, *plain(llama, "good"), 2]
    assert make_encoder("{text}{<unk>}", llama).encode({"text": "good"}).ids.tolist() == [1, *plain(llama, "good"), 0]


def test_named_tokens_of_either_side_of_an_encoder_decoder(metaspace_always):
    backend = Tokenizer.from_str(metaspace_always.backend_tokenizer.to_str())
    backend.add_special_tokens(NAMES)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    template = parse_template("{soft:2}{text} {<extra_id_0>}{decoder}{soft:1}{<extra_id_0>} {target}{<extra_id_1>}")
    encoder = encoding(template, made, len(made), False, 64, "generation", start_id=7)
    example = encoder.encode({"text": "the film"}, "it is")
    first, second = made.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_1>"])
    assert example.source.tolist() == [len(made), len(made) + 1, *plain(made, "the film <extra_id_0>")]
    assert example.ids[:3].tolist() == [len(made) + 2, 7, first]
    assert example.target_ids.tolist() == [*plain(made, "<extra_id_0> it is")[1:], second]


def test_a_token_of_the_vocabulary_that_looks_special_can_be_named(bert, make_encoder):
    ids = make_encoder("{[unused1]}{text}", bert, causal=False).encode({"text": "[unused1]"}).ids.tolist()
    assert ids == [101, 2, *plain(bert, "[unused1]"), 102]
    assert make_encoder("{positive}", bert, causal=False).template.fields == ("positive",)


def test_named_tokens_are_hoisted(chat, make_encoder):
    encoder = make_encoder("{<|start|>}{soft:2}Review:{<extra_id_0>} {text} {target}", chat)
    examples = [encoder.encode({"text": text}, "it") for text in ("it", "the film")]
    length = hoist_length(encoder, examples)
    assert chat.convert_tokens_to_ids("<extra_id_0>") in encoder.constant_head[:length]
    for example_ in examples:
        assert [*encoder.constant_head[:length], *drop_prefix(example_, length).ids] == example_.ids.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{text} <|end|> it", r"'<\|end\|>' in template .* is a special token of this tokenizer \(write {<\|end\|>}\)"),
        ("it<extra_id_0>{text}", r"\(write {<extra_id_0>}\)"),
        ("{text}{<|ende|>}", r"no token '<\|ende\|>'.*did you mean '<\|end\|>'\?\)"),
        ("{text}{[SEP]}", r"no token '\[SEP\]'"),
        ("{text}{<extra_id_2>}", "did you mean '<extra_id_[01]>'"),
        ("{text} {target} {<|end|>}", "only {eos}"),
        ("{text} {target}{text}", "only {eos}"),
    ],
)
def test_names_that_are_not_placed_say_so_in_one_line(chat, make_encoder, text, message):
    with pytest.raises(InputError, match=message) as error:
        make_encoder(text, chat)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a < b > c [d] {text}", "<b>{text}</b> [x]", "{text} <tool>"])
def test_other_brackets_are_text(chat, make_encoder, text):
    encoder = make_encoder(text, chat)
    assert encoder.encode({"text": "it"}).ids.tolist() == chat(text.replace("{text}", "it"))["input_ids"]


# ---- behind the target


def test_special_tokens_behind_the_target_are_scored(bert, chat, make_encoder, caplog):
    caplog.set_level(logging.WARNING, "jaxprompt")
    encoder = make_encoder("{text} {target}{sep}", bert)
    assert encoder.encode({"text": "a"}, "b").target_ids.tolist() == [*plain(bert, "b"), bert.sep_token_id]
    assert make_encoder("{cls}{text}{target}{[SEP]}", bert).layout.target_tail == (bert.sep_token_id,)
    encoder = make_encoder("{text} {target}{<|end|>}{<extra_id_0>}", chat)
    tail = chat.convert_tokens_to_ids(["<|end|>", "<extra_id_0>"])
    assert encoder.encode({"text": "a"}, "b").target_ids.tolist()[-2:] == tail
    words = (("it",), ("it is",))
    scored = make_encoder("{text} {target}{sep}", bert, objective="verbalizer", words=words)
    assert [ids[-1] for ids in scored.word_ids] == [bert.sep_token_id] * 2
    assert not caplog.records


def test_a_generation_without_an_end_warns(bert, llama, make_encoder, caplog):
    make_encoder("{text} {target}", llama)
    assert not caplog.records
    make_encoder("{text} {target}", bert)
    assert "no end of sequence is scored" in caplog.text and "{sep}" in caplog.text


# ---- label words


@pytest.mark.parametrize("name", ["llama", "gpt2", "roberta", "metaspace_always"])
def test_a_label_word_with_its_own_space_is_the_word_behind_one(request, make_encoder, name):
    tokenizer = request.getfixturevalue(name)

    def ids(template, words):
        return make_encoder(template, tokenizer, objective="verbalizer", words=words).word_ids

    plain_words = ids("{text} it is {target}", (("positive",), ("negative",)))
    assert ids("{text} it is {target}", ((" positive",), (" negative",))) == plain_words
    assert ids("{text} it is{target}", ((" positive",), (" negative",))) == plain_words


@pytest.mark.parametrize("word", ["Ġpositive", "▁positive", "Ġzq", "▁zq"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "metaspace_always"])
def test_a_label_word_spelled_as_in_a_vocabulary_says_what_to_write(request, make_encoder, name, word):
    tokenizer = request.getfixturevalue(name)
    for space, meant in ((" ", word[1:]), ("", f" {word[1:]}")):
        with pytest.raises(InputError, match=rf"spelled as in a vocabulary file \(write '{meant}'\)"):
            make_encoder(f"{{text}}{space}{{target}}", tokenizer, objective="verbalizer", words=((word,), ("b",)))


def test_a_label_word_that_begins_anothers_warns_of_its_end(llama, make_encoder, caplog):
    make = lambda text, *words: make_encoder(text, llama, objective="verbalizer", words=words)  # noqa: E731
    make("{text} {target}{eos}", ("1",), ("10",))
    make("{text} {target}", ("1", "10"), ("20",))  # of one label
    make("{text} {target}", ("01",), ("10",))
    assert not caplog.records
    make("{text} {target}", ("1",), ("10",))
    assert "label word '1' begin '10' of another label" in caplog.text and "{eos}" in caplog.text
