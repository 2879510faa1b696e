"""Prompt files that hold something else than they should."""

import dataclasses
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxprompt
from jaxprompt.errors import InputError
from jaxprompt.prompts import Prompt
from jaxprompt.types import Conditioning

SOFT = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
KEYS = np.zeros((2, 3, 4, 8), np.float32)
HEAD = {"head.weight": np.zeros((2, 64), np.float32), "head.bias": np.zeros(2, np.float32)}
REMEDIES = ("save it again from its run, or name another", "name a prompt file or a run folder", "save it so")


def description(**info):
    return {"prompt.soft": SOFT}, info


def arrays(**arrays):
    return {name.replace("_", ".", 1): array for name, array in arrays.items()}, {}


WRONG = {
    "method is a number": (description(method=5), "method is 5: input should be a valid string"),
    "template is a list": (description(template=["{soft:3}"]), "template is ['{soft:3}']"),
    "template is none": (description(template="{soft:3"), "unbalanced"),
    "objective is a text": (description(objective="generation"), "objective is 'generation'"),
    "objective has no type": (description(objective={}), "objective.type: field required"),
    "labels are a dict": (description(labels={"0": "a"}), "labels is {'0': 'a'}"),
    "labels are numbers": (description(labels=[0, 1]), "labels.0 is 0"),
    "backbone is a list": (description(backbone=["gpt2"]), "backbone is ['gpt2']"),
    "fingerprint is a number": (description(backbone={"fingerprint": 3}), "backbone.fingerprint is 3"),
    "tokenizer is a list": (description(tokenizer=[]), "tokenizer is []"),
    "max_length is 0": (description(max_length=0), "max_length is 0"),
    "max_length is a text": (description(max_length="64"), "max_length is '64'"),
    "prefix_start is a text": (description(prefix_start="x"), "prefix_start is 'x'"),
    "prefix_start is negative": (description(prefix_start=-1), "prefix_start is -1"),
    "prefix_start is huge": (description(prefix_start=2**70), "prefix_start is 1180591620717411303424"),
    "prefix_start is true": (description(prefix_start=True), "prefix_start is True"),
    "half a surrogate pair": (description(template="\ud800"), "half a surrogate pair"),
    "half a pair in a label": (description(labels=["\ud800"]), "half a surrogate pair"),
    "description is a list": (({"prompt.soft": SOFT}, []), "the description is []"),
    "description is null": (({"prompt.soft": SOFT}, None), "the description is None"),
    "description is no JSON": (({"prompt.soft": SOFT}, "{"), "Expecting property name"),
    "description is deep": (({"prompt.soft": SOFT}, "[" * 100_000), "nests too deeply"),
    "soft of one axis": (arrays(prompt_soft=SOFT[0]), "soft has shape (64,) of float32"),
    "soft of three axes": (arrays(prompt_soft=SOFT[None]), "soft has shape (1, 3, 64) of float32"),
    "soft of no rows": (arrays(prompt_soft=SOFT[:0]), "soft has shape (0, 64) of float32"),
    "soft of integers": (arrays(prompt_soft=np.ones((3, 64), np.int32)), "soft has shape (3, 64) of int32"),
    "soft is not finite": (arrays(prompt_soft=SOFT * np.nan), "soft holds numbers that are not finite"),
    "soft beyond float32": (arrays(prompt_soft=np.full((3, 64), 1e300)), "soft holds numbers that are not finite"),
    "keys of two axes": (arrays(prompt_keys=SOFT, prompt_values=SOFT), "keys has shape (3, 64) of float32"),
    "keys alone": (arrays(prompt_keys=KEYS), "keys without values of the same shape"),
    "values alone": (arrays(prompt_values=KEYS), "unknown arrays values"),
    "longer values": (arrays(prompt_keys=KEYS, prompt_values=KEYS[:, :2]), "keys without values of the same shape"),
    "unknown array": (arrays(prompt_hard=SOFT), "unknown arrays hard"),
    "unknown part": (arrays(body_weight=SOFT), "unknown part 'body.weight'"),
    "weight alone": (arrays(head_weight=HEAD["head.weight"]), "head.weight without head.bias"),
    "bias alone": (arrays(head_bias=HEAD["head.bias"]), "head.weight without head.bias"),
    "longer bias": (arrays(head_weight=HEAD["head.weight"], head_bias=SOFT[0]), "head.weight without head.bias"),
    "unknown head": (arrays(head_scale=SOFT), "unknown array head.scale"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_could_not_be_used_is_refused_with_its_name(tmp_path, case):
    (tensors, info), says = WRONG[case]
    path = tmp_path / "p.safetensors"
    save_file(tensors, path, metadata={"jaxprompt": info if isinstance(info, str) else json.dumps(info)})
    refused(path, says)


def npy(shape, dtype="<f4", data=b""):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (npy((10**12, 64)), "cannot be read"),
        (npy((2**62, 2**62)), "cannot be read"),
        (npy((-1, 64), data=bytes(256)), "cannot be read"),
        (npy((3, 64), data=bytes(100)), "cannot be read"),
        (npy((2, 2), "|O", bytes(32)), "cannot be read"),
        (npy("((", data=bytes(32)), "cannot be read"),
        (npy((2, 2), "<i8", bytes(32)), "has shape (2, 2) of int64"),
        (npy((2, 2), "|V4", bytes(16)), "has shape (2, 2) of |V4"),
        (npy((2, 2), "<f4", b"\xff" * 16), "holds numbers that are not finite"),
        (b"\x93NUMPY", "cannot be read"),
        (b"\x93NUMPY\x09\x00" + bytes(50), "cannot be read"),
    ],
)
def test_an_array_that_is_no_soft_prompt_is_refused_with_its_name(tmp_path, data, says):
    path = tmp_path / "p.npy"
    path.write_bytes(data)
    refused(path, says)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_no_damage_passes_as_something_else_than_an_input_error(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    whole = jaxprompt.save_prompt(Prompt(Conditioning(soft=SOFT[:1, :2]), info={"method": "soft"}), path).read_bytes()
    rng = np.random.default_rng(1)
    loaded = 0
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(1, len(whole))] if rng.random() < 0.2 else data)
        try:
            jaxprompt.load_prompt(path).check_itself()
            loaded += 1
        except InputError as error:
            assert "\n" not in str(error) and str(path) in str(error)
    assert 0 < loaded < 150  # Other numbers in the array are no damage that could be seen.


def test_what_older_and_other_files_have_is_taken(tmp_path):
    path = tmp_path / "p.safetensors"
    info = {"backbone": {"ref": "gpt2", "layers": [1]}, "notes": {"by": None}}
    save_file({"prompt.soft": SOFT.astype(np.float16), **HEAD}, path, metadata={"jaxprompt": json.dumps(info)})
    prompt = jaxprompt.load_prompt(path)
    assert prompt.info == info
    assert prompt.soft.dtype == np.float32
    np.testing.assert_array_equal(prompt.soft, SOFT.astype(np.float16))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a\udce9b", "y" * 5000])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    with pytest.raises(InputError) as error:
        jaxprompt.load_prompt(tmp_path / name)
    message = str(error.value)
    assert message.startswith(f"prompt '{tmp_path}/{name[:1]}") and "; " not in message[:20]
    assert message.endswith(REMEDIES) and "\n" not in message and len(message) < 800


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is no file")
    (tmp_path / "run" / "prompt.safetensors").mkdir(parents=True)
    refused(tmp_path / "run", "is no file")


@pytest.mark.parametrize(
    "changes",
    [
        {"conditioning": Conditioning(soft=SOFT * np.inf)},
        {"conditioning": Conditioning(soft=SOFT[None])},
        {"info": {"max_length": np.int64(3)}},
        {"info": {"notes": {1, 2}}},
        {"info": {"notes": "\ud800"}},
        {"head": {"weight": HEAD["head.weight"]}},
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, changes):
    path = jaxprompt.save_prompt(Prompt(Conditioning(soft=SOFT)), tmp_path / "p.safetensors")
    before = path.read_bytes()
    with pytest.raises(InputError):
        jaxprompt.save_prompt(dataclasses.replace(Prompt(Conditioning(soft=SOFT)), **changes), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.safetensors"]


def refused(path, says):
    with pytest.raises(InputError) as error:
        jaxprompt.load_prompt(path)
    message = str(error.value)
    assert says in message and str(path) in message
    assert message.endswith(REMEDIES) and "\n" not in message and len(message) < 800
