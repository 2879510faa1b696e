"""A GGUF file as Hugging Face files would say it: config.json's settings, and tensors by their names there.

The names and what is done to weights are those of llama.cpp's conversion (convert_hf_to_gguf.py), undone: it permutes the
rows of Llama's queries and keys, adds 1 to Gemma's norms and transposes GPT-2's matrices.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprompt.errors import InputError, did_you_mean
from jaxprompt.weights.files import ModelFiles
from jaxprompt.weights.gguf_file import GgufFile, PackedTensor

_LLAMA = {
    "token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_PHI3 = {**_LLAMA, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
_SANDWICH = {
    **_LLAMA,
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GPT2 = {
    "token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f", "output": "lm_head",
    "attn_norm": "ln_1", "ffn_norm": "ln_2", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
# Where the tensors of all layers are numbered, in either.
_LAYER = re.compile(r"blk\.([0-9]{1,5})\.(.+)")
# Rotary tables, which become settings.
_TABLES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_WINDOW, _CAPS = "attention.sliding_window", ("attn_logit_softcapping", "final_logit_softcapping")
# Settings that change what a model computes, with the values that do not: refused where an architecture has no use for them.
_REFUSED = {
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.causal": (True,),
    "rope.scale_linear": (0, 1),
    "rope.scaling.attn_factor": (0, 1),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_beta_fast": (32,),
    "rope.scaling.yarn_beta_slow": (1,),
    "rope.scaling.yarn_ext_factor": (1,),
    "rope.scaling.yarn_log_multiplier": (0,),
    "rope.freq_base_swa": (),
    **dict.fromkeys(_CAPS, (0,)),
    _WINDOW: (0,),
}


@dataclass(frozen=True)
class _Architecture:
    """How a GGUF architecture is told as a Hugging Face one.

    Attributes:
      model_type: Hugging Face's.
      names: names of tensors, without layer and ending.
      settings: `(file, settings that all have) -> further settings of config.json`.
      used: what it has of `_REFUSED`.
      layers: what Hugging Face puts before a layer's number.
      undo: `(Hugging Face's name, tensor, settings) -> tensor`, as Hugging Face has it.
    """

    model_type: str
    names: Mapping[str, str]
    settings: Callable[["GgufFile", dict[str, Any]], dict[str, Any]] = lambda file, shared: {}
    used: tuple[str, ...] = ()
    layers: str = "layers"
    undo: Callable[[str, Any, dict[str, Any]], Any] = lambda name, tensor, settings: tensor


def _get(file: GgufFile, key: str, kind: type = int, default: Any = None) -> Any:
    """A setting of the file's architecture; a float may be a whole number."""
    key = f"{file.metadata['general.architecture']}.{key}"
    value = file.metadata.get(key, default)
    if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
        value = value[0].item()  # one for each layer, all the same
    wrong = not isinstance(value, (int, float) if kind is float else kind) or (
        isinstance(value, bool) and kind is not bool
    )
    if value is not None and wrong:
        raise InputError(f"{file.path}: {key} is {str(value)[:60]!r}, expected {kind.__name__}: use another file")
    return value


def _needed(file: GgufFile, key: str, kind: type = int) -> Any:
    value = _get(file, key, kind)
    if value is None:
        raise InputError(f"{file.path} lacks {file.metadata['general.architecture']}.{key}: convert the model again")
    return value


def _shared(file: GgufFile) -> dict[str, Any]:
    """What all but GPT-2 have."""
    heads = _needed(file, "attention.head_count")
    rotated, head_dim = _get(file, "rope.dimension_count"), _get(file, "attention.key_length")
    head_dim = head_dim or _needed(file, "embedding_length") // max(heads, 1)
    if _get(file, "attention.value_length", default=head_dim) != head_dim:
        raise InputError(f"{file.path}: keys and values of different widths are not implemented: use another model")
    settings = {
        "hidden_size": _needed(file, "embedding_length"),
        "intermediate_size": _needed(file, "feed_forward_length"),
        "num_hidden_layers": _needed(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _get(file, "attention.head_count_kv", default=heads),
        "head_dim": head_dim,
        "max_position_embeddings": _needed(file, "context_length"),
        "rms_norm_eps": _needed(file, "attention.layer_norm_rms_epsilon", float),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
    }
    rope = {"rope_theta": _get(file, "rope.freq_base", float, 10000.0), **_scaling(file)}
    if rotated not in (None, head_dim):
        if file.metadata["general.architecture"] != "phi3":
            raise InputError(f"{file.path}: rotary positions of {rotated} of {head_dim} are not implemented")
        rope["partial_rotary_factor"] = rotated / head_dim
    return {**settings, "rope_parameters": rope}


def _scaling(file: GgufFile) -> dict[str, Any]:
    kind = _get(file, "rope.scaling.type", str, "none")
    if "rope_freqs.weight" in file.tensors:
        return _llama3(file)
    if kind == "none":
        return {"rope_type": "default"}
    scaling = {"rope_type": kind, "factor": _needed(file, "rope.scaling.factor", float)}
    if kind == "yarn":
        original = _get(file, "rope.scaling.original_context_length")
        scaling |= {} if original is None else {"original_max_position_embeddings": original}
    if kind not in ("linear", "yarn"):
        raise InputError(f"{file.path}: rope.scaling.type {kind!r} is not implemented: use another model")
    return scaling


def _llama3(file: GgufFile) -> dict[str, Any]:
    """Llama 3.1's scaling, of which a file keeps what each frequency is divided by: its settings are found again."""
    found = np.asarray(file.tensors["rope_freqs.weight"], np.float64).reshape(-1)
    base, low, high, original = _get(file, "rope.freq_base", float, 10000.0), 1.0, 4.0, 8192
    factor = float(found.max(initial=1.0))
    # As transformers' modeling_rope_utils computes them, of these settings.
    lengths = 2 * np.pi * base ** (np.arange(len(found)) / max(len(found), 1))
    smooth = np.clip((original / lengths - low) / (high - low), 0, 1)
    wanted = 1 / ((1 - smooth) / factor + smooth)
    if not np.allclose(found, wanted, rtol=1e-3):
        raise InputError(
            f"{file.path}: rope_freqs.weight are not Llama 3's, and others are not implemented: use another model"
        )
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return {"rope_type": "llama3", **dict(zip(names, (factor, low, high, original), strict=True))}


def _phi3(file: GgufFile, shared: dict[str, Any]) -> dict[str, Any]:
    rope = shared["rope_parameters"]
    window = _get(file, _WINDOW)
    more = {"sliding_window": window or None, "attention_bias": False}
    names = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}
    if any(name in file.tensors for name in names.values()):
        lacking = [name for name in names.values() if name not in file.tensors]
        if lacking:
            raise InputError(f"{file.path} lacks the tensor {lacking[0]!r}: download it again")
        rope |= {key: [float(f) for f in np.asarray(file.tensors[name]).reshape(-1)] for key, name in names.items()}
        rope["rope_type"] = "longrope"
        more["original_max_position_embeddings"] = _needed(file, "rope.scaling.original_context_length")
        scale = _get(file, "rope.scaling.attn_factor", float)
        rope |= {} if scale is None else {"attention_factor": scale}
    return {**more, "rope_parameters": rope}


def _gemma23(every: int | None) -> Callable[[GgufFile, dict[str, Any]], dict[str, Any]]:
    def settings(file: GgufFile, shared: dict[str, Any]) -> dict[str, Any]:
        # As llama.cpp has it: a file does not say, and the 27B models alone are scaled otherwise.
        largest = shared["num_hidden_layers"] == (46 if every is None else 62)
        width = shared["hidden_size"] // shared["num_attention_heads"] if largest else shared["head_dim"]
        more = {
            "query_pre_attn_scalar": width,
            "sliding_window": _get(file, _WINDOW),
            **{cap: _get(file, cap, float) for cap in _CAPS},
        }
        rope = shared.pop("rope_parameters")
        if every is None:
            return {**more, "rope_parameters": rope}
        return {
            **more,
            "sliding_window_pattern": every,
            "rope_theta": rope["rope_theta"],
            "rope_local_base_freq": _get(file, "rope.freq_base_swa", float, 10000.0),
            "rope_scaling": {key: value for key, value in rope.items() if key != "rope_theta"},
        }

    return settings


def _gpt2(file: GgufFile, shared: dict[str, Any]) -> dict[str, Any]:
    return {
        "n_embd": _needed(file, "embedding_length"),
        "n_layer": _needed(file, "block_count"),
        "n_head": _needed(file, "attention.head_count"),
        "n_inner": _needed(file, "feed_forward_length"),
        "n_positions": _needed(file, "context_length"),
        "layer_norm_epsilon": _needed(file, "attention.layer_norm_epsilon", float),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _llama_undo(name: str, tensor: Any, settings: dict[str, Any]) -> Any:
    """Rows of queries and keys lie in the order of rotated pairs; Hugging Face has the halves one behind the other."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    # What does not fit is refused later, as any wrong shape or setting.
    if heads is None or settings[heads] < 1 or len(tensor) % (2 * settings[heads]):
        return tensor
    rows = np.arange(len(tensor)).reshape(settings[heads], -1, 2).swapaxes(1, 2).reshape(-1)
    return tensor.rearranged(rows) if isinstance(tensor, PackedTensor) else tensor[rows]


def _gemma_undo(name: str, tensor: Any, settings: dict[str, Any]) -> Any:
    return tensor - np.float32(1) if name.endswith("norm.weight") else tensor


def _gpt2_undo(name: str, tensor: Any, settings: dict[str, Any]) -> Any:
    return tensor.T if re.search(r"(c_attn|c_proj|c_fc)\.weight$", name) else tensor


_ARCHITECTURES = {
    "llama": _Architecture("llama", _LLAMA, undo=_llama_undo),
    "qwen2": _Architecture("qwen2", _LLAMA),
    "qwen3": _Architecture("qwen3", _LLAMA),
    "phi3": _Architecture("phi3", _PHI3, _phi3, (_WINDOW, "rope.scaling.attn_factor")),
    "gemma": _Architecture("gemma", {**_LLAMA, "ffn_norm": "post_attention_layernorm"}, undo=_gemma_undo),
    "gemma2": _Architecture("gemma2", _SANDWICH, _gemma23(None), (_WINDOW, *_CAPS), undo=_gemma_undo),
    "gemma3": _Architecture(
        "gemma3_text", _SANDWICH, _gemma23(6), (_WINDOW, *_CAPS, "rope.freq_base_swa"), undo=_gemma_undo
    ),
    "gpt2": _Architecture("gpt2", _GPT2, _gpt2, layers="h", undo=_gpt2_undo),
}


def config_of(file: GgufFile) -> dict[str, Any]:
    """The settings that config.json would have.

    Raises:
      InputError: an architecture or a setting that is not implemented, or one that is missing.
    """
    name = file.metadata.get("general.architecture")
    if name not in _ARCHITECTURES:
        raise InputError(
            f"{file.path}: unknown architecture {str(name)[:60]!r}{did_you_mean(str(name), _ARCHITECTURES)}"
        )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or embedding.ndim != 2:
        raise InputError(f"{file.path} lacks the tensor 'token_embd.weight': download it again")
    kind = _ARCHITECTURES[name]
    if _get(file, "expert_count"):
        raise InputError(f"{file.path}: a mixture of experts is not implemented: use a dense model")
    for key, without in _REFUSED.items():
        value = file.metadata.get(f"{name}.{key}")
        value = value.tolist() if isinstance(value, np.ndarray) else value
        # A window that no text outgrows is none.
        wide = key == _WINDOW and isinstance(value, int) and value >= _needed(file, "context_length")
        if not (value is None or key in kind.used or value in without or wide):
            raise InputError(f"{file.path}: {name}.{key}={str(value)[:60]} is not implemented: use another model")
    shared = {} if name == "gpt2" else _shared(file)
    more = kind.settings(file, shared)
    ends = {f"{role}_token_id": file.metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    turn = file.metadata.get("tokenizer.ggml.eot_token_id")
    if turn is not None and turn != ends["eos_token_id"]:
        ends["eos_token_id"] = [ends["eos_token_id"], turn]
    return {"model_type": kind.model_type, "vocab_size": len(embedding), **ends, **shared, **more}


def files_of(file: GgufFile, config: dict[str, Any]) -> ModelFiles:
    """The tensors by Hugging Face's names, as Hugging Face has them.

    Args:
      config: of `config_of`.
    """
    kind = _ARCHITECTURES[file.metadata["general.architecture"]]
    tensors = {}
    for stored, tensor in file.tensors.items():
        if stored in _TABLES:
            continue
        layer = _LAYER.fullmatch(stored)
        base, _, ending = (layer[2] if layer else stored).rpartition(".")
        name = f"{kind.names.get(base, base)}.{ending}"
        name = f"{kind.layers}.{layer[1]}.{name}" if layer else name
        tensors[name] = kind.undo(name, tensor, config)
    return ModelFiles(file.path, tensors)
