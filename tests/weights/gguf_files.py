"""GGUF files that tests write: Hugging Face models as llama.cpp's conversion stores them."""

import json

import gguf
import numpy as np

from tests.weights.folders import GOLDEN, stored

# Settings that a file cannot say, where those of the golden models are unusual.
CHANGES = {
    "gemma2": {"query_pre_attn_scalar": 10},
    "gemma3": {"query_pre_attn_scalar": 10, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6},
    "gpt2": {"layer_norm_epsilon": 1e-5},
}
CASES = ("llama-untied", "qwen2", "qwen3", "phi3", "phi3-longrope", "gemma", "gemma2", "gemma3", "gpt2")


def config_of(name):
    return json.loads((GOLDEN / name / "config.json").read_text()) | CHANGES.get(name, {})


def _architecture(config):
    return config["model_type"].removesuffix("_text")


def write_gguf(path, name, change=None, kind=gguf.GGMLQuantizationType.F32, tokens=None):
    """Writes golden `name`; `change(metadata, tensors)` may spoil them before.

    Returns the path.
    """
    config, weights = config_of(name), stored(name)
    metadata, tensors = metadata_of(config, tokens), tensors_of(config, weights)
    if change is not None:
        change(metadata, tensors)
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"))
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            kinds[type(value)](key, value)
    for tensor, array in tensors.items():
        block = gguf.GGML_QUANT_SIZES[kind][0]
        packed = array.ndim == 2 and array.shape[1] % block == 0 and kind != gguf.GGMLQuantizationType.F32
        if packed:
            writer.add_tensor(tensor, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor, np.ascontiguousarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def metadata_of(config, tokens=None):
    name = _architecture(config)
    old = name == "gpt2"
    heads = config["n_head" if old else "num_attention_heads"]
    hidden = config["n_embd" if old else "hidden_size"]
    said = {
        "context_length": config["n_positions" if old else "max_position_embeddings"],
        "embedding_length": hidden,
        "block_count": config["n_layer" if old else "num_hidden_layers"],
        "feed_forward_length": (config["n_inner"] or 4 * hidden) if old else config["intermediate_size"],
        "attention.head_count": heads,
    }
    if old:
        said["attention.layer_norm_epsilon"] = config["layer_norm_epsilon"]
    else:
        rope = {**(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
        head_dim = config.get("head_dim") or hidden // heads
        said |= {
            "attention.head_count_kv": config["num_key_value_heads"],
            "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
            "attention.key_length": head_dim,
            "attention.value_length": head_dim,
            "rope.freq_base": float(rope.get("rope_theta") or config.get("rope_theta")),
        }
        part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
        said["rope.dimension_count"] = int(head_dim * part)
        if rope.get("rope_type", rope.get("type")) == "linear":
            said |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
        if "long_factor" in rope:
            said["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
        if config.get("sliding_window") and name in ("gemma2", "gemma3", "phi3"):
            said["attention.sliding_window"] = config["sliding_window"]
        for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
            if config.get(cap) and name == "gemma2":
                said[cap] = float(config[cap])
    metadata = {"general.architecture": name, **{f"{name}.{key}": value for key, value in said.items()}}
    for role in ("bos", "eos"):
        if isinstance(config.get(f"{role}_token_id"), int) and config[f"{role}_token_id"] < config["vocab_size"]:
            metadata[f"tokenizer.ggml.{role}_token_id"] = config[f"{role}_token_id"]
    return metadata | (tokens or {})


def tensors_of(config, weights):
    """The tensors by their GGUF names, found by the library's own table, rearranged as the conversion does."""
    name = _architecture(config)
    layers = config.get("n_layer", config.get("num_hidden_layers"))
    architecture = next(kind for kind, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, layers)
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    found = {}
    for full, array in weights.items():
        base, ending = full.rsplit(".", 1)
        last = base.rsplit(".", 1)[-1]
        if full == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if name == "llama" and last in heads:  # LlamaModel.permute
            shape = (config[heads[last]], 2, -1, *array.shape[1:])
            array = array.reshape(shape).swapaxes(1, 2).reshape(array.shape)
        if name.startswith("gemma") and full.endswith("norm.weight"):
            array = array + 1
        if name == "gpt2" and full.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            array = array.T
        found[f"{names.get_name(base)}.{ending}"] = array
    rope = config.get("rope_scaling") or {}
    for kind in ("long", "short"):
        if f"{kind}_factor" in rope:
            found[f"rope_factors_{kind}.weight"] = np.float32(rope[f"{kind}_factor"])
    return found
