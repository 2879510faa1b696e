"""Tokenizers of model folders: tokenizer.json is the truth, and ByT5's is ByT5's."""

import json

import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer

from jaxprompt.errors import InputError
from jaxprompt.text.tokens import text_tokenizer
from jaxprompt.weights import tokenizer as module
from jaxprompt.weights.tokenizer import read_tokenizer

TEXTS = ["hello world in 2023 we had 650841823 things\n\nHello World", "The Year 1999.\n\nAnswer: yes\n\n"] * 20
DIGITS = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?[^\s\p{N}]+|\s+"), "isolated")
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
END = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


def byte_level(splitter=None, normalizer=None):
    made = tokenizers.Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitter is None)
    made.pre_tokenizer = bytes_ if splitter is None else pre_tokenizers.Sequence([splitter, bytes_])
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=special, show_progress=False, initial_alphabet=alphabet
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return made


def word_piece():
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=140, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(4)
    made.enable_padding(length=8)
    return made


def folder_of(path, made, kind, config=None, **files):
    made.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps({"model_type": kind}))
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("made", "kind", "config"),
    [
        (byte_level(DIGITS), "llama", {**END, "tokenizer_class": "GPT2Tokenizer"}),
        (byte_level(DIGITS), "llama", {**END, "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True}),
        (byte_level(DIGITS), "qwen3", {**END, "tokenizer_class": "Qwen2Tokenizer"}),
        (byte_level(DIGITS), "gpt2", None),
        (byte_level(None, normalizers.Lowercase()), "opt", {**END, "tokenizer_class": "GPT2Tokenizer"}),
        (byte_level(), "mine", {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}),
        (word_piece(), "bert", {"tokenizer_class": "BertTokenizer"}),
        (word_piece(), "gpt2", {"tokenizer_class": "BertTokenizer", "do_lower_case": True}),
    ],
)
def test_ids_are_those_of_tokenizer_json(tmp_path, made, kind, config):
    read = read_tokenizer(folder_of(tmp_path, made, kind, config))
    made.no_truncation()
    made.no_padding()

    @quick
    @given(st.text(max_size=30))
    @example("Hello World in 2023:\n\n650841823")
    @example("it  is <mask> <|endoftext|> [MASK]")
    def check(text):
        assert read(text)["input_ids"] == made.encode(text).ids
        if text:  # An empty second text is none.
            assert read(text, text)["input_ids"] == made.encode(text, text).ids

    check()
    assert len(read) == made.get_vocab_size()


def test_the_other_files_say_what_the_special_tokens_are_for(tmp_path):
    config = {
        "eos_token": {"content": "<|endoftext|>", "lstrip": False},
        "pad_token": "[PAD]",
        "additional_special_tokens": ["<mask>", "<lost>"],
        "padding_side": "left",
    }
    made = byte_level()
    folder = folder_of(tmp_path, made, "mine", config, special_tokens_map={"mask_token": "<mask>"})
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    read = read_tokenizer(folder)
    assert (read.eos_token_id, read.mask_token_id, read.bos_token_id) == (0, 1, None)
    assert read.added_tokens_decoder[1].lstrip
    # What tokenizer.json has not, the model has no embedding for.
    assert read.pad_token_id is None
    assert len(read) == made.get_vocab_size()
    assert set(read.all_special_tokens) == {"<|endoftext|>", "<mask>"}
    assert (read.padding_side, read.chat_template) == ("left", "{{ messages }}")


@pytest.mark.parametrize(("made", "role"), [(byte_level(), "pad_token"), (word_piece(), "eos_token")])
def test_an_ordinary_token_with_a_role_stays_one(tmp_path, made, role):
    text = "We had things. Year"
    ids = made.encode(text, add_special_tokens=False).ids[:4]
    name = made.id_to_token(ids[1])
    read = read_tokenizer(folder_of(tmp_path, made, "mine", {role: name}))
    assert getattr(read, f"{role}_id") == ids[1]
    for special in (False, True):
        assert read(text, add_special_tokens=False)["input_ids"][:4] == ids
        assert read.decode(ids, skip_special_tokens=special) == made.decode(ids)
    tokens = text_tokenizer(read)
    assert tokens.encode(text)[:4] == ids
    assert tokens.special_id(role.removesuffix("_token") if role == "eos_token" else name) == ids[1]


def test_a_role_makes_a_name_special_in_no_text(tmp_path):
    made = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "<s>": 1, "it": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    read = read_tokenizer(folder_of(tmp_path, made, "mine", {"bos_token": "<s>"}))
    assert read("it <s>")["input_ids"] == [2, 1]
    assert text_tokenizer(read).encode("it <s>") == [2, 0]
    assert text_tokenizer(read).special_id("bos") == 1


def test_a_family_says_what_the_files_leave_open(tmp_path):
    read = read_tokenizer(folder_of(tmp_path, byte_level(), "gpt2"))
    assert (read.eos_token_id, read.bos_token_id) == (0, 0)
    assert "token_type_ids" not in read("a")
    read = read_tokenizer(folder_of(tmp_path, word_piece(), "bert"))
    assert (read.cls_token_id, read.sep_token_id, read.mask_token_id, read.eos_token_id) == (2, 3, 4, None)
    assert read("a", "a")["token_type_ids"][-1] == 1


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\0"])
def test_damaged_files_say_so_in_one_line(tmp_path, name, content):
    folder = folder_of(tmp_path, byte_level(), "gpt2", END)
    (folder / name).write_text(content)
    with pytest.raises(InputError) as error:
        read_tokenizer(folder)
    assert "\n" not in str(error.value)


# ---- folders without a tokenizer.json


@pytest.fixture(scope="module")
def byt5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("byt5")
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "tokenizer_class": "ByT5Tokenizer"}))
    return read_tokenizer(folder)


def test_byt5_reads_and_writes_bytes(byt5):
    reference = ByT5Tokenizer()
    assert len(byt5) == len(reference) == 384
    assert byt5.special_tokens_map["eos_token"] == str(reference.eos_token)

    @quick
    @given(st.text(max_size=20), st.lists(st.integers(0, 383), max_size=20), st.booleans())
    @example("hé</s> x<extra_id_3> \0", [198, 172, 198, 35, 1, 0, 259], True)
    def check(text, ids, skip):
        assert byt5(text)["input_ids"] == reference(text)["input_ids"]
        found = byt5.decode(ids, skip_special_tokens=skip)
        assert found == reference.decode(ids, skip_special_tokens=skip)

    check()


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model"])
def test_a_sentencepiece_model_names_what_reads_it(tmp_path, monkeypatch, name):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    (tmp_path / name).write_bytes(b"\n\x0e\n\x05<unk>")
    monkeypatch.setattr(module, "_installed", lambda package: package != "sentencepiece")
    with pytest.raises(InputError, match=rf"its {name} is read with sentencepiece.*\(pip install sentencepiece\)$"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["t5", "bart", "mbart", "gpt2", "gpt_neox", "opt", "qwen3", "gemma", "bert", "llama"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(InputError, match=r"^no (usable )?tokenizer in .*tokenizer\.json") as error:
        read_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_older_files_are_read_if_they_are_whole(tmp_path):
    alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(alphabet)}))
    with pytest.raises(InputError, match=r"^no (usable )?tokenizer in .*merges"):
        read_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    assert read_tokenizer(tmp_path)("the")["input_ids"] == [alphabet.index("the")]
