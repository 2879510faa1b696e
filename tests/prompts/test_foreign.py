"""Files of other libraries where a prompt is expected."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprompt
from jaxprompt.errors import InputError

ROWS = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float16)
WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (b'{"peft_type": "PROMPT_TUNING"}', ""),
        (b'{"peft_type": "PROMPT_TUNING"}', WEIGHTS),
        (b'{"peft_type": "P_TUNING"}', ""),
        (None, WEIGHTS),
    ],
)
def test_the_remedy_for_a_soft_prompt_of_peft_works_as_it_is_written(tmp_path, monkeypatch, config, name):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"prompt_embeddings": ROWS}, folder / WEIGHTS)
    if config is not None:
        (folder / "adapter_config.json").write_bytes(config)
    with pytest.raises(InputError) as error:
        jaxprompt.load_prompt(folder / name)
    message = str(error.value)
    assert "\n" not in message and str(folder) in message
    if config is not None:
        assert f"holds a PEFT adapter ('{json.loads(config)['peft_type']}')" in message
    saving = re.search(r"numpy\.save\('prompt\.npy', safetensors\.numpy\.load_file\('(.*)'\)\['(.*)'\]", message)
    np.save("prompt.npy", load_file(saving[1])[saving[2]].astype("float32"))
    np.testing.assert_array_equal(jaxprompt.load_prompt("prompt.npy").soft, ROWS)


@pytest.mark.parametrize(
    ("config", "weights", "says"),
    [
        (
            b'{"peft_type": "LORA"}',
            WEIGHTS,
            "('LORA'), no prompt of jaxprompt: of PEFT only PROMPT_TUNING and P_TUNING",
        ),
        (b'{"peft_type": "PREFIX_TUNING"}', WEIGHTS, "('PREFIX_TUNING'), no prompt of jaxprompt: of PEFT only"),
        (b'{"peft_type": "PROMPT_TUNING"}', "adapter_model.bin", f"save it with PEFT as {WEIGHTS}"),
        (b'{"peft_type": ["PROMPT_TUNING"]}', WEIGHTS, "(['PROMPT_TUNING']), no prompt of jaxprompt"),
        (b"[" * 100_000, WEIGHTS, "('of an unknown type'), no prompt of jaxprompt"),
        (b"\xff", WEIGHTS, "('of an unknown type'), no prompt of jaxprompt"),
        (b"[]", WEIGHTS, "('of an unknown type'), no prompt of jaxprompt"),
    ],
)
def test_other_adapters_are_named(tmp_path, config, weights, says):
    (tmp_path / "adapter_config.json").write_bytes(config)
    (tmp_path / weights).write_bytes(b"")
    with pytest.raises(InputError) as error:
        jaxprompt.load_prompt(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_other_arrays_are_listed_and_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({f"layer{number}\n": ROWS for number in range(30)}, path)
    with pytest.raises(InputError) as error:
        jaxprompt.load_prompt(path)
    message = str(error.value)
    assert f"'{path}' is not a prompt that jaxprompt wrote" in message and "numpy.save('prompt.npy'" in message
    assert "layer0" in message and "... and 25 more" in message and "\n" not in message
