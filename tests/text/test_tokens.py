"""What encoding asks of tokenizers, of every kind: texts, continuations, special tokens around them and by name."""

import dataclasses

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxprompt.errors import InputError
from jaxprompt.methods import starts
from jaxprompt.text.tokens import check_ids, text_tokenizer, whole_ids


@pytest.fixture(scope="module")
def dna():
    """A tokenizer that has no token for most letters, nor for the unknown."""
    words = ["<s>", "</s>", "A", "C", "G", "T", "AC", " "]
    made = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[("A", "C")]))
    made.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    made.decoder = decoders.Fuse()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def test_what_stands_around_a_text_is_the_tokenizers(any_tokenizer):
    tokens = text_tokenizer(any_tokenizer)
    whole = any_tokenizer("the")["input_ids"]
    bare = any_tokenizer("the", add_special_tokens=False)["input_ids"]
    assert [*tokens.leading, *bare, *tokens.trailing] == whole
    assert tokens.pair_types == (1 in any_tokenizer("the", "the").get("token_type_ids", ()))


def test_no_letter_is_taken_for_granted(dna, make_encoder):
    tokens = text_tokenizer(dna)
    assert (tokens.leading, tokens.trailing, tokens.pair_types) == ((0,), (1,), False)
    assert make_encoder("{soft:1}{text}", dna).encode({"text": "ACGT"}).ids.tolist() == [8, 0, 6, 4, 5, 1]
    example = make_encoder("{text}{target}", dna).encode({"text": "AC"}, "GT")
    assert (example.ids.tolist(), example.target_ids.tolist()) == ([0, 6, 4, 5], [4, 5, 1])
    # Behind an A the C would be merged with it; behind other letters it is not.
    assert tokens.continuation("CG") == [3, 4]
    assert tokens.starts_anew_after(0)


def test_post_processors_of_any_kind(gpt2):
    backend = Tokenizer.from_str(gpt2.backend_tokenizer.to_str())
    for processor, around in (
        (processors.BertProcessing(("a", 5), ("b", 6)), ((6,), (5,))),
        (processors.RobertaProcessing(("a", 5), ("b", 6)), ((6,), (5,))),
        (processors.ByteLevel(), ((), ())),
        (processors.Sequence([processors.ByteLevel(), processors.BertProcessing(("a", 5), ("b", 6))]), ((6,), (5,))),
    ):
        backend.post_processor = processor
        tokens = text_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
        assert (tokens.leading, tokens.trailing) == around
        # The types are the model's to have.
        assert not tokens.pair_types


def test_ids_beyond_the_embedding_are_refused_wherever_they_come_from(gpt2, bert):
    few = r"^token .* has the id \d+, but the model has 60 embeddings \(use the model's own tokenizer\)$"
    tokens = text_tokenizer(gpt2, 60)
    last = gpt2.convert_ids_to_tokens(len(gpt2) - 1)
    for call in (
        lambda: tokens.encode("positive"),
        lambda: tokens.continuation("positive"),
        lambda: check_ids([3, 60], gpt2, 60),
        lambda: text_tokenizer(bert, 60),  # [CLS] is 101
    ):
        with pytest.raises(InputError, match=few):
            call()
    assert check_ids([59], gpt2, 60) == [59]
    grown = PreTrainedTokenizerFast(
        tokenizer_object=gpt2.backend_tokenizer, eos_token="<|endoftext|>", bos_token="<new>"
    )
    assert last in grown.get_vocab()
    with pytest.raises(InputError, match=f"'<new>' has the id {len(gpt2)}, but the model has {len(gpt2)} embeddings"):
        text_tokenizer(grown, len(gpt2)).special_id("bos")


def test_what_a_tokenizer_cannot_read_says_so_in_one_line(gpt2):
    tokens = text_tokenizer(gpt2)
    for text in ("a\ud83d", "\ude00"):
        for call in (tokens.encode, tokens.continuation):
            with pytest.raises(InputError, match="half a surrogate pair"):
                call(text)

    class PanicException(BaseException):
        """As Rust's."""

    class Backend:
        def encode(self, text, add_special_tokens):
            raise PanicException

    with pytest.raises(InputError, match=r"cannot read 'a+\.\.\.a+', 1000 characters \(shorten it\)$"):
        dataclasses.replace(tokens, backend=Backend()).encode("a" * 1000)


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"),
        models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"),
        models.Unigram([("a", -1.0), ("b", -2.0)]),
        models.BPE({"a": 0, "b": 1}, [], unk_token="[UNK]"),
    ],
)
def test_a_tokenizer_that_has_nothing_for_the_unknown_reads_the_rest(model):
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = text_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert (tokens.encode("a b"), tokens.continuation(" b"), len(tokens.fingerprint)) == ([0, 1], [1], 16)
    calls = (
        lambda: tokens.encode("z"),
        lambda: tokens.continuation("z"),
        lambda: whole_ids(tokens.tokenizer, "z", "text"),
        lambda: starts.text_ids(2, tokens.tokenizer, "z"),
        lambda: starts.text_tokens(tokens.tokenizer, "z"),
    )
    for call in calls:
        with pytest.raises(InputError, match=r"^the tokenizer cannot read '.*z': .* \(leave out characters"):
            call()
