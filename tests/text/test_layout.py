"""What stands around a text, and what swallows white space there."""

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from jaxprompt.errors import InputError
from jaxprompt.text.templates import parse_template
from tests.tokenizers import encoding


@pytest.mark.parametrize("name", ["llama", "bert", "roberta"])
@pytest.mark.parametrize("end", ["{eos}", "{sep}", "own name"])
def test_an_end_behind_the_target_leaves_the_front_of_the_text_as_it_is(request, make_encoder, name, end):
    tokenizer = request.getfixturevalue(name)
    role = "sep" if name == "bert" else "eos"
    end = f"{{{getattr(tokenizer, f'{role}_token')}}}" if end == "own name" else f"{{{role}}}"
    without = make_encoder("{soft:2}{text} {target}", tokenizer).encode({"text": "a film"}, "it is").ids.tolist()
    behind = make_encoder(f"{{soft:2}}{{text}} {{target}}{end}", tokenizer).encode({"text": "a film"}, "it is")
    assert behind.ids[: len(without)].tolist() == without
    assert tuple(without[2 : 2 + len(behind.ids)][:1]) == make_encoder("{text} {target}", tokenizer).tokens.leading
    assert behind.target_ids[-1] == getattr(tokenizer, f"{role}_token_id")


def test_an_end_behind_a_decoders_target_leaves_its_front_too(roberta):
    ids = [
        encoding(parse_template(text), roberta, len(roberta), False, 64, "generation", start_id=9)
        .encode({"text": "a"}, "it")
        .ids[:2]
        .tolist()
        for text in ("{text}{target}", "{text}{target}{eos}")
    ]
    assert ids == [[9, roberta.bos_token_id]] * 2


def test_text_cut_off_ahead_of_swallowed_white_space_is_told(roberta):
    template = parse_template("{text}{mask}")
    encoder = encoding(template, roberta, len(roberta), False, 32, "verbalizer", (("it",), ("film",)))
    example = encoder.encode({"text": " " * 50_000 + "it was"})
    assert example.truncated and len(example.ids) < 32
    assert not encoder.encode({"text": " " * 20}).truncated


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("en_XX", "it en_XX {text}", "en_XX"),
        ("<|tool call|>", "it<|tool call|> {text}", "<|tool call|>"),
        ("<tool>", "[it<tool>] {text}", "<tool>"),
        (">>TITLE<<", "{text} >>TITLE<<", ">>TITLE<<"),
        ("word", "a word {text}", None),
        ("--", "it -- {text}", None),
    ],
)
def test_a_special_token_of_any_spelling_in_hard_text_is_named(gpt2, make_encoder, name, text, said):
    backend = Tokenizer.from_str(gpt2.backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(name)])
    grown = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    if said is None:
        make_encoder(text, grown)
        return
    with pytest.raises(InputError) as error:
        make_encoder(text, grown)
    assert f"{said!r} in template" in str(error.value) and f"(write {{{said}}})" in str(error.value)
    assert backend.token_to_id(name) in make_encoder(f"{{text}}{{{name}}}", grown).encode({"text": "it"}).ids


def test_a_label_word_that_names_a_special_token_is_that_token(llama, bert, make_encoder):
    words = (("</s>",), ("<unk>x", "it"))
    causal = make_encoder("{text} {target}", llama, objective="verbalizer", words=words)
    assert causal.word_ids[0] == (2,)
    assert len(causal.word_ids[1]) > 2
    masked = make_encoder("{text} {mask}", bert, causal=False, objective="verbalizer", words=(("[SEP]",), ("it",)))
    assert masked.word_ids == ((bert.sep_token_id,), (bert.convert_tokens_to_ids("it"),))
