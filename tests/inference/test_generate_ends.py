"""What a prompt has learned to end with ends what it writes; models that read bytes write them."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerFast

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.inference import generate as generation
from jaxprompt.objectives.similarity import embed_labels
from jaxprompt.prompts import Prompt
from jaxprompt.scoring import writing
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.templates import parse_template

GOLDEN = Path(__file__).parents[1] / "golden"


def bare_prompt(backbone, template):
    """A template alone."""
    info = {"template": template, "max_length": 64, "backbone": {"fingerprint": backbone.fingerprint}}
    return Prompt(info=info)


def test_a_prompt_ends_with_what_its_template_has_behind_the_target(monkeypatch, stories):
    dog, ran = stories.tokenizer("dog ran", add_special_tokens=False)["input_ids"][:2]
    decoded = np.array([[dog, 0, ran]]), np.zeros(1)  # 0 is <unk>

    def write(template):
        monkeypatch.setattr(writing, "decode", lambda *args, **kwargs: decoded)
        return jaxprompt.generate(stories, ["Once"], bare_prompt(stories, template), max_new_tokens=3)[0]

    whole, ended = write("{text}{target}"), write("{text}{target}{<unk>}")
    assert ended and whole.startswith(ended) and len(whole) > len(ended)


def test_a_prompt_without_an_end_warns_once(monkeypatch, stories, caplog):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=stories.tokenizer.backend_tokenizer, unk_token="<unk>")
    endless = dataclasses.replace(stories, read_tokenizer=lambda: tokenizer)
    monkeypatch.setattr(writing, "decode", lambda *args, **kwargs: (np.array([[5]]), np.zeros(1)))
    jaxprompt.generate(endless, ["Once"], bare_prompt(stories, "{text}{target}"), max_new_tokens=1)
    assert caplog.text.count("no end of sequence") == 1


def test_tokens_that_the_model_lacks_are_refused_in_plain_texts(stories):
    grown = SimpleNamespace(
        causal=True,
        seq2seq=False,
        vocab_size=300,
        tokenizer=stories.tokenizer,
    )
    with pytest.raises(InputError, match="but the model has 300 embeddings"):
        generation._contexts(grown, ["Once upon a time"], None, None)
    with pytest.raises(InputError, match="but the model has 300 embeddings"):
        embed_labels(grown, (("Once upon a time",), ("x",)), "last")
    with pytest.raises(InputError, match="half a surrogate pair"):
        embed_labels(grown, (("a\ud83d",), ("x",)), "last")


def test_a_byt5_folder_reads_and_writes(tmp_path):
    folder = tmp_path / "byt5"
    shutil.copytree(GOLDEN / "byt5", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 384, "tokenizer_class": "ByT5Tokenizer"}))
    weights, rng = load_file(folder / "model.safetensors"), np.random.default_rng(0)
    for name, weight in weights.items():
        if weight.shape[0] == config["vocab_size"]:
            weights[name] = rng.normal(size=(384, *weight.shape[1:])).astype(np.float32)
    save_file(weights, folder / "model.safetensors")
    backbone = jaxprompt.load_backbone(folder)
    template = parse_template("{soft:2}{text} {<extra_id_0>}{target}")
    encoder = RowEncoder(template, backbone.tokenizer, 384, False, 12, scores_eos=True, start_id=0)
    trunk = encoder.trunk({"text": "hé" * 9})
    assert trunk.source.tolist() == [384, 385, *[107, 198, 172] * 2, 107, 35, 259, 1]
    assert (trunk.ids, trunk.truncated) == ([0], True)
    assert encoder.target_ids("é") == [198, 172, 1]
    (written,) = jaxprompt.generate(backbone, ["hé"], max_new_tokens=4)
    assert isinstance(written, str)
