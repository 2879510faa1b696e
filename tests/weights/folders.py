"""Model folders that tests write, and what is said of those that are refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxprompt.backbone import load_backbone
from jaxprompt.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"


def stored(name):
    return load_file(GOLDEN / name / "model.safetensors")


def write(folder, name, weights):
    """Makes a model folder with the config of golden `name` and other weights."""
    shutil.copy(GOLDEN / name / "config.json", folder)
    save_file(weights, folder / "model.safetensors")
    return folder


def assert_same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


def split(folder, name, shards):
    weights = stored(name)
    shutil.copy(GOLDEN / name / "config.json", folder)
    files = {key: f"model-{i % shards:05}.safetensors" for i, key in enumerate(sorted(weights))}
    for file in set(files.values()):
        save_file({key: weights[key] for key in files if files[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def refused(folder, *messages, **options):
    with pytest.raises(InputError) as error:
        load_backbone(folder, **options)
    for message in messages:
        assert message in str(error.value)
    assert "\n" not in str(error.value)


def with_json(folder, name, text, file="config.json"):
    """A golden model in which one of the JSON files is another."""
    shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
    (folder / file).write_bytes(text if isinstance(text, bytes) else json.dumps(text).encode())
    return folder
