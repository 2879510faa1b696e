"""Writes tests/golden/curves: what PEFT learns in 20 steps on the tiny models, from which initial values.

Needs torch, transformers and peft; the tests need none of them. Run: python tests/golden_reference/curves.py
"""

import json
from pathlib import Path

import torch
from peft import (
    AdaptionPromptConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, logging

GOLDEN = Path(__file__).parents[1] / "golden"
LENGTH, STEPS, RATE, EPSILON, HIDDEN, ROWS, GATED_LAYERS = 4, 20, 0.01, 1e-5, 10, 6, 2
# Of each row the first tokens are only read.
READ = 4
METHODS = {
    "soft": (PromptTuningConfig, {}),
    "p_tuning_mlp": (PromptEncoderConfig, {"encoder_reparameterization_type": "MLP", "encoder_hidden_size": HIDDEN}),
    "p_tuning_lstm": (PromptEncoderConfig, {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": HIDDEN}),
    "prefix": (PrefixTuningConfig, {}),
    "projected_prefix": (PrefixTuningConfig, {"prefix_projection": True, "encoder_hidden_size": HIDDEN}),
}
# T5's prefix of PEFT has one side; ours has two.
CASES = [(model, method) for model in ("gpt2", "llama-untied") for method in METHODS]
CASES += [("t5", method) for method in ("soft", "p_tuning_mlp", "p_tuning_lstm")]
# Changes of weights, by the modules that they are of; GPT-2's queries, keys and values are one module in PEFT.
LORA = {"gpt2": ["c_fc"], "llama-untied": ["q_proj", "v_proj"], "t5": ["q", "v"]}
IA3 = {"llama-untied": (["k_proj", "v_proj", "down_proj"], ["down_proj"]), "t5": (["k", "v", "wo"], ["wo"])}
# Larger steps cross kinks of T5's ReLU, where rounding decides what the gradient is.
RATES = {("t5", "lora"): 0.002}
CASES += [(model, "lora") for model in LORA] + [(model, "ia3") for model in IA3]
# PEFT's adaption prompt takes a head for hidden size / heads wide, which llama-untied's are not.
CASES += [(model, "gated_prefix") for model in ("gpt2", "stories260K")]


def rows(vocab: int) -> list[list[int]]:
    return [torch.randint(3, vocab, (9 + row,)).tolist() for row in range(ROWS)]


def padded(ids: list[list[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, ids))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in ids])


def through_projection(attention: torch.nn.Module) -> None:
    """Puts what PEFT adds to GPT-2's attention through the output projection, as in the paper and in PEFT's Llama."""
    kept, added = {}, attention.forward
    attention.model.register_forward_hook(lambda module, given, output: kept.update(plain=output[0]))

    def forward(*given, **named):
        both, *rest = added(*given, **named)
        return kept["plain"] + (both - kept["plain"]) @ attention.model.c_proj.weight, *rest

    attention.forward = forward


def curve(name: str, method: str) -> None:
    torch.manual_seed(0)
    seq2seq = name == "t5"
    loader = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    model = loader.from_pretrained(GOLDEN / name).eval()
    task = "SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM"
    if method == "lora":
        config = LoraConfig(task_type=task, r=3, lora_alpha=6, use_rslora=name == "t5", target_modules=LORA[name])
    elif method == "ia3":
        config = IA3Config(task_type=task, target_modules=IA3[name][0], feedforward_modules=IA3[name][1])
    elif method == "gated_prefix":
        config = AdaptionPromptConfig(task_type=task, adapter_len=LENGTH, adapter_layers=GATED_LAYERS)
    else:
        kind, options = METHODS[method]
        config = kind(task_type=task, num_virtual_tokens=LENGTH, **options)
    peft = get_peft_model(model, config).eval()
    if (name, method) == ("gpt2", "gated_prefix"):
        for block in model.transformer.h[-GATED_LAYERS:]:
            through_projection(block.attn)
    learned = {key: value for key, value in peft.named_parameters() if value.requires_grad}
    if method == "soft":  # PEFT's start is N(0, 1), far larger than words are
        for value in learned.values():
            value.data *= 0.3
    rate = RATES.get((name, method), RATE)
    arrays = {f"start.{key}": value.detach().clone() for key, value in learned.items()}
    text = rows(model.config.vocab_size)
    target = rows(model.config.vocab_size)
    # A larger epsilon than usual: with the usual one, steps of weights that hardly matter are rounding errors, enlarged.
    optimizer = torch.optim.AdamW(learned.values(), lr=rate, weight_decay=0.0, eps=EPSILON)
    losses = []
    for _ in range(STEPS + 1):
        ids = padded(text, 0)
        mask = torch.tensor([[float(at < len(row)) for at in range(ids.shape[1])] for row in text])
        if seq2seq:
            loss = peft(input_ids=ids, attention_mask=mask, labels=padded(target, -100)).loss
        else:
            labels = padded([[*[-100] * READ, *row[READ:]] for row in text], -100)
            loss = peft(input_ids=ids, attention_mask=mask, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    arrays["losses"] = torch.tensor(losses)
    folder = GOLDEN / "curves"
    folder.mkdir(exist_ok=True)
    meta = {"text": text, "target": target if seq2seq else None, "read": READ, "rate": rate, "length": LENGTH}
    meta |= {"hidden": HIDDEN, "epsilon": EPSILON}
    save_file(arrays, folder / f"{name}.{method}.safetensors", metadata={"case": json.dumps(meta)})
    print(name, method, losses[0], losses[-1], sorted(learned))


if __name__ == "__main__":
    logging.set_verbosity_error()
    for case in CASES:
        curve(*case)
