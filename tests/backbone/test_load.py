import json
import time

import pytest

from jaxprompt.backbone import load_backbone
from jaxprompt.errors import InputError
from tests.weights.folders import GOLDEN, refused, with_json


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gpt2", {"eos_token_id": 61}, "'eos_token_id' is 61, expected a token id below the vocabulary's size of 61"),
        ("gpt2", {"eos_token_id": [1, 61]}, "'eos_token_id' is [1, 61]"),
        ("gpt2", {"eos_token_id": -1}, "'eos_token_id' is -1"),
        ("gpt2", {"eos_token_id": "2"}, "'eos_token_id' is '2'"),
        ("gpt2", {"eos_token_id": True}, "'eos_token_id' is True"),
        ("t5", {"decoder_start_token_id": 61}, "'decoder_start_token_id' is 61"),
        ("t5", {"decoder_start_token_id": [0]}, "'decoder_start_token_id' is [0]"),
        ("bart", {"forced_bos_token_id": 61}, "'forced_bos_token_id' is 61"),
        ("bart", {"forced_eos_token_id": [2]}, "'forced_eos_token_id' is [2]"),
    ],
)
def test_token_ids_that_the_model_does_not_have(tmp_path, name, settings, message):
    refused(with_json(tmp_path, name, settings, "generation_config.json"), message)
    config = json.loads((GOLDEN / name / "config.json").read_text())
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, **settings}))
    if "eos_token_id" in settings:
        assert all(0 <= token < 61 for token in load_backbone(tmp_path).eos_ids)
    else:
        refused(tmp_path, message)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mistral", {"num_hidden_layers": 10**9}, "expected a positive integer up to 10000"),
        ("gpt-neo", {"num_layers": 10**9}, "expected a positive integer up to 10000"),
        (
            "gpt-neo",
            {"attention_layers": None, "attention_types": [[["global"], 10**9]]},
            "expected global or local for each",
        ),
        ("t5", {"num_decoder_layers": 10_001}, "expected a positive integer up to 10000"),
        ("bart", {"encoder_layers": 10_001}, "expected a positive integer up to 10000"),
        ("llama-untied", {"num_hidden_layers": 10_000}, "missing: layers.10.input_layernorm.weight"),
        ("llama-untied", {"vocab_size": 10**15}, "expected a positive integer up to 2147483647"),
        ("llama-untied", {"vocab_size": 2 * 10**9}, "config.json says [2000000000, 24]"),
        ("llama-untied", {"hidden_size": 10**12}, "expected a positive integer up to 2147483647"),
        ("llama-untied", {"hidden_size": 2**30}, "is [61, 24], config.json says [61, 1073741824]"),
        ("llama-untied", {"max_position_embeddings": 10**30}, "expected a positive integer up to 2147483647"),
        ("llama-untied", {"head_dim": 2**30}, "heads of 1073741824, expected at most 65536"),
        ("gpt2", {"n_inner": 2**31 - 1, "n_embd": 2**30}, "wte.weight is [61, 24], config.json says"),
        ("t5", {"d_model": 2**31 - 1, "d_ff": 2**31 - 1, "num_heads": 2**31 - 1}, "wrong shape: shared.weight"),
        ("t5", {"relative_attention_max_distance": 2**31 - 1}, "expected a positive integer up to 1048576"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_made_of_them(tmp_path, name, changes, message):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    # Not by the clock: others may use the machine.
    started = time.process_time()
    refused(with_json(tmp_path, name, {**config, **changes}), message)
    assert time.process_time() - started < 3


def test_unknown_dtype_and_remat():
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        load_backbone(GOLDEN / "gpt2", dtype="bfloat")
    with pytest.raises(InputError, match=r"unknown remat policy 'dot' \(did you mean 'dots'"):
        load_backbone(GOLDEN / "gpt2", remat="dot")
