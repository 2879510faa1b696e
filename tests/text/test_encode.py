import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from jaxprompt.errors import InputError
from tests.tokenizers import encoding

LABELS = (("positive",), ("negative",))
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = {
    "chinese": "这部电影很好看，推荐！",
    "emoji": "so good 😀👨‍👩‍👧 🇺🇦 wow",
    "arabic": "كان الفيلم رائعًا حقًّا",
    "hebrew": "הסרט היה נהדר",
}


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def is_soft(encoder, ids):
    return np.asarray(ids) >= encoder.vocab_size


# ---- text, soft slots and special tokens


def test_text_between_soft_slots_is_tokenised_as_one_plain_string(any_tokenizer, make_encoder):
    encoder = make_encoder("{soft:2}Review: {a} and{b}!{soft:3}{b} end{soft:1}", any_tokenizer, causal=False)
    base = encoder.vocab_size

    @quick
    @given(text=st.text(max_size=30), other=st.text(max_size=10))
    @example(text="", other="")
    @example(text="  two  spaces ", other="\n")
    def check(text, other):
        # A tokenizer makes special tokens of their names, which in an example are text like any other.
        first, second = f"Review: {text} and{other}!", f"{other} end"
        assume(not any(name in first + second for name in any_tokenizer.all_special_tokens))
        ids = encoder.encode({"a": text, "b": other}).ids
        assert ids.tolist() == [
            *(base, base + 1),
            *encoder.tokens.leading,
            *plain(any_tokenizer, first),
            *(base + 2, base + 3, base + 4),
            *plain(any_tokenizer, second),
            *encoder.tokens.trailing,
            base + 5,
        ]

    check()


def test_the_tokenizers_own_special_tokens_stand_inside_the_soft_ones(bert, llama, make_encoder):
    encoder = make_encoder("{soft:16} {text}", bert, causal=False)
    encoded = encoder.encode({"text": "good film"}, label=1)
    assert encoded.ids.tolist() == [*range(30522, 30538), *bert("good film")["input_ids"]]
    assert encoded.pool_at == 16
    assert encoded.answers == {"label": 1}
    assert encoded.types.tolist() == [0] * len(encoded.ids)
    encoder = make_encoder("{soft:2}{text}", llama)
    assert encoder.encode({"text": "good film"}).ids.tolist() == [512, 513, *llama("good film")["input_ids"]]


def test_a_special_token_placed_by_hand_is_the_only_one(llama, make_encoder):
    encoder = make_encoder("{bos}{soft:2}{text}{eos}", llama)
    assert encoder.encode({"text": "good"}).ids.tolist() == [1, 512, 513, *plain(llama, "good"), 2]
    assert make_encoder("{text}{eos}", llama).encode({"text": "good"}).ids.tolist() == [*plain(llama, "good"), 2]


def test_a_sentence_pair_is_berts(bert, make_encoder):
    encoder = make_encoder("{soft:2}{cls}{a}{sep}{b}{sep}", bert, causal=False)
    encoded = encoder.encode({"a": "is it good?", "b": "yes it is"})
    pair = bert("is it good?", "yes it is")
    assert encoded.ids.tolist()[2:] == pair["input_ids"]
    assert encoded.types.tolist()[2:] == pair["token_type_ids"]
    assert encoded.types.tolist()[:2] == [0, 0]


def test_special_tokens_written_in_the_data_are_text(any_tokenizer, make_encoder):
    encoder = make_encoder("{soft:1}{text}", any_tokenizer)
    specials = set(any_tokenizer.all_special_ids) - {any_tokenizer.unk_token_id}
    written = " ".join(any_tokenizer.all_special_tokens)
    encoded = encoder.encode({"text": f"a {written}{written} b"})
    around = [*encoder.tokens.leading, *encoder.tokens.trailing]
    assert [i for i in encoded.ids.tolist() if i in specials] == around
    generator = make_encoder("{text} {target}", any_tokenizer)
    assert not specials & set(generator.encode({"text": "a"}, f"b {written}").target_ids.tolist()[:-1])


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "roberta"])
def test_text_of_any_script_survives(request, make_encoder, name, language):
    tokenizer = request.getfixturevalue(name)
    text = TEXTS[language]
    encoder = make_encoder("{soft:2}{text}{target}", tokenizer)
    encoded = encoder.encode({"text": text}, text)
    context = encoded.ids[: encoded.target_at[0] + 1]
    context = context[~is_soft(encoder, context)]
    assert tokenizer.decode(context, skip_special_tokens=True) == text
    assert tokenizer.decode(encoded.target_ids, skip_special_tokens=True) == text


def test_numbers_are_text_and_missing_values_are_not(gpt2, make_encoder):
    encoder = make_encoder("{a}", gpt2)
    assert encoder.encode({"a": 3.5}).ids.tolist() == plain(gpt2, "3.5")
    for row, message in (
        ({"A": "x"}, "^row 7: no field 'a'"),
        ({"a": None}, "^row 7: field 'a' is None"),
        ({"a": float("nan")}, "field 'a' is nan"),
        ({"a": "\ud83d"}, "half a surrogate pair"),
        ({"a": ""}, "no token to pool"),
    ):
        with pytest.raises(InputError, match=message):
            encoder.encode(row, number=7)


def test_a_tokenizer_larger_than_the_model_never_reaches_the_soft_rows(gpt2, make_encoder):
    encoder = make_encoder("{soft:2}{text}", gpt2)
    small = encoding(encoder.template, gpt2, 60, True, 512, "classifier", pool="last")
    with pytest.raises(InputError, match=r"^row 3: token .* the model has 60 embeddings"):
        small.encode({"text": "positive"}, number=3)


# ---- targets


def test_a_target_has_the_tokens_of_running_text(any_tokenizer, make_encoder):
    encoder = make_encoder("{soft:2}Sentiment: {target}", any_tokenizer)
    encoded = encoder.encode({}, "positive")
    eos = [any_tokenizer.eos_token_id] if any_tokenizer.eos_token_id is not None else []
    body = plain(any_tokenizer, "Sentiment: positive") + eos
    head = [encoder.vocab_size, encoder.vocab_size + 1, *encoder.tokens.leading]
    assert [*encoded.ids.tolist(), encoded.target_ids[-1]] == head + body
    count = len(encoded.target_ids)
    assert any_tokenizer.decode(encoded.target_ids[: count - len(eos)]).strip() == "positive"
    assert encoded.target_at.tolist() == list(range(len(encoded.ids) - count, len(encoded.ids)))
    assert encoded.target_group.tolist() == [0] * count


@pytest.mark.parametrize("name", ["llama", "metaspace_first", "metaspace_always"])
def test_metaspace_is_written_once_and_only_for_a_space(request, make_encoder, name):
    tokenizer = request.getfixturevalue(name)
    spaced = make_encoder("{text} {target}", tokenizer).encode({"text": "it is"}, "positive")
    written = "".join(tokenizer.convert_ids_to_tokens(spaced.target_ids[:-1]))
    assert written == "▁positive"
    joined = make_encoder("{text}{target}", tokenizer).encode({"text": "这"}, "好")
    assert tokenizer.convert_ids_to_tokens(joined.target_ids[:-1]) in (["好"], ["<0xE5>", "<0xA5>", "<0xBD>"])
    context = tokenizer.convert_ids_to_tokens(spaced.ids[: spaced.target_at[0] + 1])
    assert context[-1] != "▁"


def test_eos_is_scored_once(llama, make_encoder):
    automatic = make_encoder("{bos}{text} {target}", llama).encode({"text": "a"}, "b").target_ids.tolist()
    by_hand = make_encoder("{bos}{text} {target}{eos}", llama).encode({"text": "a"}, "b").target_ids.tolist()
    assert automatic == by_hand
    assert automatic.count(2) == 1 and automatic[-1] == 2


def test_context_is_what_a_generator_continues(llama, make_encoder):
    encoder = make_encoder("{soft:2}{text}: {target}", llama)
    encoded = encoder.encode({"text": "once upon"}, "a time")
    assert encoder.context({"text": "once upon"}).ids == encoded.ids[: encoded.target_at[0] + 1].tolist()


@pytest.mark.parametrize(
    ("text", "objective", "causal", "words", "message"),
    [
        ("{text}", "generation", True, None, "no {target}"),
        ("{text}", "verbalizer", True, LABELS, "no {target}"),
        ("{text}", "verbalizer", False, LABELS, "no {mask}"),
        ("{text} {mask}", "verbalizer", True, LABELS, "use {target}"),
        ("{text} {target}", "verbalizer", False, LABELS, "use {mask}"),
        ("{text} {target}", "classifier", True, None, "remove it"),
        ("{text} {mask}", "similarity", False, None, "remove it"),
        ("{text}", "generation", False, None, "needs a causal model"),
        ("{text} {target}.", "generation", True, None, "only {eos}"),
        ("{target}{bos}", "generation", True, None, "only {eos}"),
        ("{bos}{text}", "classifier", False, None, "no bos token"),
        ("{text} {mask}", "verbalizer", False, (("good", "bad"), ("bad",)), "'bad' of label 1"),
        ("{text} {mask}", "verbalizer", False, (("Good",), ("good",)), "tokens of 'Good' of label 0"),
        ("{text} {mask}", "verbalizer", False, (("good",), ()), "label 1 has no label words"),
        ("{text} {mask}", "verbalizer", False, (("good",), (" ",)), "empty label word"),
        ("{text} {mask}", "verbalizer", False, (("good",), ("😀",)), "unknown to the tokenizer"),
    ],
)
def test_what_does_not_go_together_says_so(bert, make_encoder, text, objective, causal, words, message):
    with pytest.raises(InputError) as error:
        make_encoder(text, bert, causal=causal, objective=objective, words=words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_generation_needs_a_target_and_something_before_it(gpt2, make_encoder):
    encoder = make_encoder("{text}{target}", gpt2)
    for target in ("", None):
        with pytest.raises(InputError, match=r"^row 2: the target is empty"):
            encoder.encode({"text": "a"}, target, number=2)
    with pytest.raises(InputError, match="nothing stands before"):
        encoder.encode({"text": ""}, "a")


# ---- verbalizers


def test_one_token_words_are_scored_at_the_end_of_the_context(llama, make_encoder):
    words = (("the", "to"), ("and",))
    encoder = make_encoder("{soft:2}{text} {target}", llama, objective="verbalizer", words=words)
    encoded = encoder.encode({"text": "once upon"}, label=1)
    assert encoded.ids.tolist() == [512, 513, *llama("once upon")["input_ids"]]
    assert encoded.target_at.tolist() == [len(encoded.ids) - 1] * 3
    assert llama.convert_ids_to_tokens(encoded.target_ids) == ["▁the", "▁to", "▁and"]
    assert encoded.target_group.tolist() == [0, 1, 2]
    assert not encoded.branches.any()
    assert (encoder.num_words, encoder.words) == (3, words)


def test_longer_words_branch_off_the_context(llama, make_encoder):
    words = (("the",), ("terrible", "great"))
    encoder = make_encoder("{soft:2}{text} {target}", llama, objective="verbalizer", words=words)
    encoded = encoder.encode({"text": "it was"}, label=0)
    trunk = [512, 513, *llama("it was")["input_ids"]]
    assert encoded.ids[encoded.branches == 0].tolist() == trunk
    assert set(encoded.branches) == {0, 1, 2}
    # Each word, read along its own path, is the word in running text, every token of it scored.
    for group, (word, branch) in enumerate([("the", None), ("terrible", 1), ("great", 2)]):
        path = (encoded.branches == 0) | (encoded.branches == branch)
        mine = encoded.target_group == group
        last = encoded.target_ids[mine][-1:]
        assert [*encoded.ids[path][2:], *last] == llama(f"it was {word}")["input_ids"]
        assert encoded.positions[path].tolist() == list(range(path.sum()))
        along = encoded.ids[path].tolist() + last.tolist()
        assert path[encoded.target_at[mine]].all()
        assert encoded.target_ids[mine].tolist() == [along[p + 1] for p in encoded.positions[encoded.target_at[mine]]]
        assert mine.sum() == len(along) - len(trunk)


def test_masked_words_of_several_tokens_have_a_segment_per_length(bert, make_encoder):
    words = (("great", "unputdownable"), ("bad", "unwatchable"))
    encoder = make_encoder("{soft:2} {text} It was {mask}.", bert, causal=False, objective="verbalizer", words=words)
    encoded = encoder.encode({"text": "A film"}, label=0)
    flat = [word for group in words for word in group]
    tokens = [plain(bert, word) for word in flat]
    assert len({len(t) for t in tokens}) > 1
    for segment, count in enumerate(sorted({len(t) for t in tokens}), start=1):
        here = encoded.segments == segment
        text = bert(f"A film It was {' '.join(['[MASK]'] * count)}.")["input_ids"]
        assert encoded.ids[here].tolist() == [30522, 30523, *text]
        assert encoded.positions[here].tolist() == list(range(2 + len(text)))
    assert set(encoded.segments) == set(range(1, 1 + len({len(t) for t in tokens})))
    for group, ids in enumerate(tokens):
        mine = encoded.target_group == group
        assert encoded.target_ids[mine].tolist() == ids
        at = encoded.target_at[mine]
        assert (encoded.ids[at] == bert.mask_token_id).all()
        assert (encoded.ids == bert.mask_token_id)[encoded.segments == encoded.segments[at[0]]].sum() == len(ids)
        assert (np.diff(at) == 1).all()


def test_a_mask_that_swallows_its_space_gives_it_to_the_words(roberta, make_encoder):
    words = (("positive",), ("negative",))
    encoder = make_encoder("{text} is {mask} .", roberta, causal=False, objective="verbalizer", words=words)
    encoded = encoder.encode({"text": "it"})
    assert encoded.ids.tolist() == roberta("it is <mask> .")["input_ids"]
    assert encoder.word_ids == tuple(tuple(plain(roberta, f" {word}")) for (word,) in words)


@pytest.mark.parametrize("name", ["bert", "roberta", "metaspace_first", "metaspace_always"])
@pytest.mark.parametrize("template", ["{a} is {mask}. {b}", "{mask} film: {a} {b}", "{a}{mask}, {b}"])
def test_text_around_a_mask_is_tokenised_as_the_tokenizer_does(request, make_encoder, name, template):
    tokenizer = request.getfixturevalue(name)
    encoder = make_encoder(template, tokenizer, causal=False, objective="verbalizer", words=(("the",), ("it",)))
    encoded = encoder.encode({"a": "the plot", "b": "was great"})
    for segment, count in enumerate(sorted({len(word) for word in encoder.word_ids}), start=1):
        text = template.replace("{mask}", tokenizer.mask_token * count).format(a="the plot", b="was great")
        assert encoded.ids[encoded.segments == segment].tolist() == tokenizer(text)["input_ids"]


# ---- truncation


@quick
@given(a=st.text(max_size=60), b=st.text(max_size=60), room=st.integers(0, 40), target=st.text(min_size=1, max_size=5))
@example(a="word " * 12, b="👨‍👩‍👧" * 8, room=5, target="x")
def test_truncation_keeps_template_and_target_within_bounds(llama, make_encoder, a, b, room, target):
    template = "{soft:3}First: {a}{soft:1}Then: {b} Answer: {target}"
    free = make_encoder(template, llama, max_length=10_000)
    least = len(free.encode({"a": "", "b": ""}, target).ids)
    encoder = make_encoder(template, llama, max_length=least + room)
    row = {"a": a, "b": b}
    encoded, whole = encoder.encode(row, target), free.encode(row, target)
    assert len(encoded.ids) <= least + room
    assert encoded.truncated == (len(whole.ids) > least + room)
    assert encoded.target_ids.tolist() == whole.target_ids.tolist()
    if not encoded.truncated:
        assert encoded.ids.tolist() == whole.ids.tolist()
        return
    assert is_soft(encoder, encoded.ids).sum() == 4
    # What is left is the template with beginnings of the fields.
    cut = np.flatnonzero(encoded.ids == encoder.vocab_size + 3)[0]
    first = llama.decode(encoded.ids[3:cut], skip_special_tokens=True)
    then = llama.decode(encoded.ids[cut + 1 : encoded.target_at[0] + 1], skip_special_tokens=True)
    assert first.startswith("First: ") and a.startswith(first.removeprefix("First: "))
    assert then.startswith("Then: ") and then.endswith(" Answer:")
    assert b.startswith(then.removeprefix("Then: ").removesuffix(" Answer:"))


def test_the_longest_field_is_shortened_first(gpt2, make_encoder):
    short, long = "the film was great", " ".join(["the plot was positive"] * 20)
    whole = make_encoder("{a}{soft:1}{b}", gpt2).encode({"a": long, "b": short})
    encoder = make_encoder("{a}{soft:1}{b}", gpt2, max_length=40)
    encoded = encoder.encode({"a": long, "b": short})
    cut = encoded.ids.tolist().index(encoder.vocab_size)
    assert encoded.ids[cut:].tolist() == whole.ids[whole.ids.tolist().index(encoder.vocab_size) :].tolist()
    assert len(encoded.ids) == 40
    # Only when it is down to the other are both shortened, evenly.
    tight = make_encoder("{a}{soft:1}{b}", gpt2, max_length=7).encode({"a": long, "b": short})
    assert tight.ids.tolist().index(encoder.vocab_size) == 3
    assert len(tight.ids) == 7


def test_truncation_counts_the_longest_path(llama, bert, make_encoder):
    row = {"text": "the little girl " * 30}
    words = (("the",), ("terrible terrible",))
    encoder = make_encoder("{text} {target}", llama, objective="verbalizer", words=words, max_length=40)
    encoded = encoder.encode(row)
    assert encoded.positions.max() == 39
    assert encoded.truncated
    words = (("good",), ("unputdownable",))
    encoder = make_encoder("{text} {mask}", bert, causal=False, objective="verbalizer", words=words, max_length=40)
    assert encoder.encode(row).positions.max() == 39


def test_what_cannot_fit_names_its_lengths(llama, make_encoder):
    encoder = make_encoder("{soft:10}{text} {target}", llama, max_length=14)
    with pytest.raises(InputError, match=r"^row 5: .*10 soft.*do not fit max_length 14 \(raise it"):
        encoder.encode({"text": "a"}, "a very long answer that is", number=5)
