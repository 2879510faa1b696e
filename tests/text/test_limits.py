"""Templates and texts that are far too long, or that no tokenizer can read: refused or cut, in no time."""

import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jaxprompt.errors import InputError
from jaxprompt.text.templates import parse_template
from jaxprompt.text.tokens import text_tokenizer
from jaxprompt.text.truncate import beginning
from tests.tokenizers import encoding

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BIG = 10**6


@pytest.mark.parametrize("word", ["a", "it was ", "的", "a\0 ", "e\u0301"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "metaspace_always"])
def test_a_huge_field_is_cut_in_no_time_and_says_so(request, make_encoder, name, word):
    encoder = make_encoder("{soft:2}{a} {b}: {target}", request.getfixturevalue(name), max_length=40)
    start = time.monotonic()
    example_ = encoder.encode({"a": word * BIG, "b": "it is"}, "it")
    assert time.monotonic() - start < 5
    assert example_.truncated and len(example_.ids) <= 40
    same = encoder.encode({"a": word * 1000, "b": "it is"}, "it")
    assert same.ids.tolist() == example_.ids.tolist()


@quick
@given(st.text(min_size=1, max_size=12), st.integers(1, 400), st.integers(1, 30))
@example("word ", 400, 3)
def test_a_beginning_has_all_that_can_matter(llama, text, times, limit):
    tokens, whole = text_tokenizer(llama), text * times
    begun = beginning(tokens, whole, limit)
    assert whole.startswith(begun)
    assert begun == whole or len(tokens.encode(begun)) > 2 * limit
    assert tokens.encode(begun)[:limit] == tokens.encode(whole)[:limit]


def test_a_cut_of_either_side_is_told(metaspace_always):
    template = parse_template("{a}{decoder}{b}: {target}")
    encoder = encoding(template, metaspace_always, len(metaspace_always), False, 24, "generation", start_id=7)
    long = "the film " * 40
    for row, truncated in (
        ({"a": long, "b": "it"}, True),
        ({"a": "it", "b": long}, True),
        ({"a": "a", "b": "b"}, False),
    ):
        assert encoder.encode(row, "it").truncated == truncated
        assert encoder.context(row).truncated == truncated


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{soft:999999999}{a}", "has 999999999 soft tokens, which do not fit max_length 64 .lower"),
        ("{soft:33}{a}{soft:32}", "has 65 soft tokens"),
        ("it was " * BIG + "{a}", "has a text of over 64 tokens"),
        ("{a} it was " * 10**4, "do not fit max_length 64"),
        ("{a}" + "{eos}" * 10**4, "10000 of the template"),
        ("{a" + "b" * BIG, "unbalanced '{' at character 0"),
        ("{<" + "b" * BIG + ">}", "no token '<b+...b+>'"),
        ("{a}\ud83d", "the template has half a surrogate pair"),
    ],
)
def test_a_template_that_cannot_work_is_refused_in_no_time(gpt2, make_encoder, text, message):
    start = time.monotonic()
    with pytest.raises(InputError, match=message) as error:
        make_encoder(text, gpt2, max_length=64).encode({"a": "it"})
    assert time.monotonic() - start < 5
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


def test_many_placeholders_and_braces_are_read_in_no_time(gpt2, make_encoder):
    start = time.monotonic()
    assert len(parse_template("{{" * BIG).pieces[0].text) == BIG
    ids = make_encoder("{a} it" * 10**4, gpt2, max_length=10**5).encode({"a": ""}).ids
    assert ids.tolist() == gpt2(" it" * 10**4)["input_ids"]
    assert time.monotonic() - start < 10


def test_each_side_of_an_encoder_decoder_has_room_of_its_own(metaspace_always):
    made = metaspace_always
    encoding(
        parse_template("{soft:40}{a}{decoder}{soft:40}{target}"), made, len(made), False, 64, "generation", start_id=7
    )
    with pytest.raises(InputError, match="has 65 soft tokens"):
        encoding(parse_template("{a}{decoder}{soft:65}{target}"), made, len(made), False, 64, "generation", start_id=7)


@pytest.mark.parametrize(
    ("objective", "words", "row", "target", "message"),
    [
        ("generation", None, {"a": "it"}, "b\ud83d", "^row 4: the text has half a surrogate pair"),
        ("generation", None, {"a": "\ud83d"}, "b", "^row 4: field 'a' has half a surrogate pair"),
        ("verbalizer", (("a\ud83d",), ("b",)), {}, None, "^label word 'a.ud83d' has half a surrogate pair"),
    ],
)
def test_half_a_surrogate_pair_is_refused_by_name(gpt2, make_encoder, objective, words, row, target, message):
    with pytest.raises(InputError, match=message):
        make_encoder("{a} {target}", gpt2, objective=objective, words=words).encode(row, target, number=4)


def test_a_target_beyond_the_embedding_names_its_row(gpt2):
    ids = gpt2(" positive")["input_ids"]
    few = f"token .* has the id {max(ids)}, but the model has {max(ids)} embeddings"
    encoder = encoding(parse_template("{a}{target}{eos}"), gpt2, max(ids), True, 64, "generation")
    with pytest.raises(InputError, match=f"^row 4: {few}"):
        encoder.encode({"a": "x"}, " positive", number=4)
    with pytest.raises(InputError, match=f"^{few}"):
        encoding(parse_template("{a} {target}"), gpt2, max(ids), True, 64, "verbalizer", (("positive",), ("x",)))


@pytest.mark.parametrize(
    ("text", "pool", "unseen"),
    [
        ("{a}{soft:4}", "last", 4),
        ("{soft:2}{a} it {soft:3}", "mean", 3),
        ("{a}{soft:2} it{soft:1}{b}", "first", 3),
        ("{bos}{soft:2}{a}", "first", 2),
        ("{soft:2}{a}", "first", 0),
        ("{soft:2}{a}{soft:2}{b}", "last", 0),
        ("{a}{soft:2}.", "mean", 0),
    ],
)
def test_soft_rows_that_a_causal_model_cannot_see_are_refused(roberta, make_encoder, text, pool, unseen):
    make_encoder(text, roberta, causal=False, pool=pool)
    if not unseen:
        make_encoder(text, roberta, pool=pool)
        return
    with pytest.raises(InputError, match=rf"^{unseen} soft tokens of template .* move {{soft:N}} before the text"):
        make_encoder(text, roberta, pool=pool)


def test_a_huge_label_word_takes_no_time(gpt2, make_encoder):
    start = time.monotonic()
    encoder = make_encoder(
        "{a} {target}", gpt2, objective="verbalizer", words=(("ab" * 10**5,), ("ab",)), max_length=64
    )
    with pytest.raises(InputError, match="do not fit max_length 64"):
        encoder.encode({"a": "it"}, label=0)
    with pytest.raises(InputError) as error:
        make_encoder("{a} {target}", gpt2, objective="verbalizer", words=(("▁" + "ab" * 10**5,), ("ab",)))
    assert len(str(error.value)) < 300
    assert time.monotonic() - start < 5
