"""Examples of encoder-decoders: what each side reads, and both sides packed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from jaxprompt.data.order import Order
from jaxprompt.data.packing import pack, pack_separate, plan_rows
from jaxprompt.errors import InputError
from jaxprompt.text.templates import parse_template
from tests.tokenizers import _metaspace, encoding

START = 7


@pytest.fixture(scope="module")
def t5():
    """As T5: "▁" before every word, </s> behind a text."""
    tokenizer = _metaspace("always")
    end = ("</s>", tokenizer.convert_tokens_to_ids("</s>"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[end]
    )
    return tokenizer


def encoder(text, tokenizer, objective="generation", words=None, max_length=64):
    template = parse_template(text)
    return encoding(template, tokenizer, len(tokenizer), False, max_length, objective, words, START)


def test_text_before_the_target_is_the_encoders(t5):
    made = encoder("{soft:2} Review: {text} {target}", t5)
    example = made.encode({"text": "the film"}, "positive")
    vocab, eos = len(t5), t5.eos_token_id
    assert example.source.tolist() == [vocab, vocab + 1, *t5(" Review: the film")["input_ids"]]
    assert example.source[-1] == eos
    target = t5("positive")["input_ids"]
    assert example.ids.tolist() == [START, *target[:-1]]
    assert example.target_ids.tolist() == target
    assert target[-1] == eos
    assert example.target_at.tolist() == list(range(len(target)))


def test_the_decoder_has_soft_rows_and_text_of_its_own(t5):
    made = encoder("{soft:2}{text} {decoder} {soft:3} Answer: {target}", t5)
    example = made.encode({"text": "great"}, "positive")
    vocab = len(t5)
    answer = t5(" Answer:", add_special_tokens=False)["input_ids"]
    assert example.source[:2].tolist() == [vocab, vocab + 1]
    assert example.ids[:3].tolist() == [vocab + 2, vocab + 3, vocab + 4]
    assert example.ids[3 : 4 + len(answer)].tolist() == [START, *answer]
    assert example.target_at[0] == 3 + len(answer)
    trunk = made.context({"text": "great"})
    assert trunk.ids == example.ids[: 4 + len(answer)].tolist()
    assert trunk.source.tolist() == example.source.tolist()


def test_white_space_at_the_split_belongs_to_neither_side(t5):
    ids = [
        (e.source.tolist(), e.ids.tolist(), e.target_ids.tolist())
        for text in ("{text}{target}", "{text} {target}", "{text} {decoder} {target}", "{text}{decoder}{target}")
        for e in [encoder(text, t5).encode({"text": "great"}, "positive")]
    ]
    assert all(one == ids[0] for one in ids)


def test_a_start_that_the_tokenizer_gives_texts_stands_behind_the_start_token(roberta):
    example = encoder("{text}{target}", roberta).encode({"text": "great"}, "positive")
    assert example.ids[:2].tolist() == [START, roberta.bos_token_id]
    assert example.target_at[0] == 1
    assert example.target_ids.tolist() == roberta("positive")["input_ids"][1:]


def test_label_words_branch_off_the_start(t5):
    made = encoder("{text} {target}", t5, "verbalizer", (("positive",), ("the film", "negative")))
    example = made.encode({"text": "great"}, label=1)
    assert example.ids[0] == START
    first = {g: i for i, g in zip(example.target_ids.tolist(), example.target_group.tolist(), strict=True)}
    assert set(first) == {0, 1, 2}
    words = [t5(word, add_special_tokens=False)["input_ids"] for word in ("positive", "the film", "negative")]
    for group, word in enumerate(words):
        assert example.target_ids[example.target_group == group].tolist() == word


def test_long_text_is_cut_and_the_target_kept(t5):
    made = encoder("{soft:2} {text} {target}", t5, max_length=8)
    example = made.encode({"text": "the film was great " * 20}, "positive")
    assert example.truncated
    assert len(example.source) <= 8
    assert example.source[-1] == t5.eos_token_id
    assert example.target_ids.tolist() == t5("positive")["input_ids"]


@pytest.mark.parametrize(
    ("text", "objective", "says"),
    [
        ("{text}", "classifier", "on an encoder-decoder is not implemented"),
        ("{text} {mask}", "verbalizer", "does not go with a verbalizer on a encoder-decoder"),
        ("{text}", "generation", "has no {target}"),
        ("{decoder}{text}{decoder}{target}", "generation", "has 2 {decoder}"),
    ],
)
def test_templates_that_do_not_fit(t5, text, objective, says):
    with pytest.raises(InputError) as error:
        encoder(text, t5, objective, (("a",), ("b",)) if objective == "verbalizer" else None)
    assert says in str(error.value)


def test_decoder_is_for_encoder_decoders(gpt2, make_encoder):
    with pytest.raises(InputError, match="is for encoder-decoders"):
        make_encoder("{text}{decoder}{target}", gpt2)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_packing_keeps_every_example_whole_on_both_sides(t5, data):
    made = encoder("{soft:1} {text} {target}", t5)
    words = st.integers(1, 12)
    examples = [
        made.encode({"text": "film " * data.draw(words)}, "positive " * data.draw(words))
        for _ in range(data.draw(st.integers(1, 9)))
    ]
    plan = plan_rows(examples, Order(len(examples), len(examples)))
    assert plan.source_length >= max(len(e.source) for e in examples)
    for batch in (pack(examples, plan), pack_separate(examples)):
        found = {}
        for row, slot in zip(*np.nonzero(batch.index >= 0), strict=True):
            mine = batch.source.segments[row] == slot + 1
            theirs = batch.inputs.segments[row] == slot + 1
            number = batch.index[row, slot]
            found[number] = (batch.source.ids[row][mine].tolist(), batch.inputs.ids[row][theirs].tolist())
            assert batch.source.positions[row][mine].tolist() == list(range(mine.sum()))
        assert found == {i: (e.source.tolist(), e.ids.tolist()) for i, e in enumerate(examples)}
