"""Writes tests/golden/curves: what PEFT, and torch alone, learn in 20 steps on the tiny models, from which initial values.

Needs torch, transformers and peft; the tests need none of them. Run: python tests/golden_reference/curves.py, with names such
as gpt2.lora for those alone.
"""

import json
import sys
from pathlib import Path

import torch
from peft import (
    AdaptionPromptConfig,
    CPTConfig,
    IA3Config,
    LoraConfig,
    MultitaskPromptTuningConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, logging

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
LORA = {"gpt2": ["c_fc"], "llama-untied": ["q_proj", "v_proj"], "t5": ["q", "v"], "bert": ["query", "value"]}
IA3 = {"llama-untied": (["k_proj", "v_proj", "down_proj"], ["down_proj"]), "t5": (["k", "v", "wo"], ["wo"])}
# Larger steps cross kinks of T5's ReLU, where rounding decides what the gradient is.
RATES = {("t5", "lora"): 0.0005}
CASES += [(model, "lora") for model in LORA] + [(model, "ia3") for model in IA3]
# PEFT's adaption prompt takes a head for hidden size / heads wide, which llama-untied's are not.
CASES += [(model, "gated_prefix") for model in ("gpt2", "stories260K")]
# Without PEFT: of the model's own parameters those are learned whose names say so, and a classifier.
OWN = {
    "full": lambda name: True,
    "bitfit": lambda name: name.endswith("bias"),
    "norms": lambda name: "norm" in name.lower() or ".ln_" in name,
}
RATES |= {(model, "full"): 0.001 for model in ("gpt2", "llama-untied", "bert")}
CASES += [(model, method) for model in ("gpt2", "llama-untied", "bert") for method in OWN]
CASES.remove(("llama-untied", "bitfit"))  # which has no biases
CASES += [("bert", "soft"), ("bert", "prefix"), ("t5", "full")]
RATES[("t5", "full")] = 0.0005
CLASSES = 3

# Of CPT's prompt: which example's label each token is part of (0: none), and whether it is the template's.
LABELS, TEMPLATE, DECAY = [0, 0, 0, 1, 0, 0, 0, 2, 2], [1, 0, 0, 0, 1, 1, 0, 0, 0], 0.9
BOUNDS = {"text": 1.0, "template": 0.5}
CASES += [(model, "cpt") for model in ("gpt2", "llama-untied")]
# Every other row is of the second task.
TASKS, RANK = 2, 3
OPTIONS = {"num_tasks": TASKS, "num_ranks": RANK, "num_transformer_submodules": 1}
METHODS["multitask"] = (MultitaskPromptTuningConfig, OPTIONS)  # of T5, the encoder alone has a prompt
CASES += [(model, "multitask") for model in ("gpt2", "llama-untied", "t5")]


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


class First(torch.nn.Module):
    """In place of BERT's pooler: the state of the first token of the text, behind so many soft tokens."""

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def forward(self, hidden):
        return hidden[:, self.at]


def take_prefix(bert: torch.nn.Module) -> None:
    """Calls keys and values as PEFT does, and counts positions of the text from 0."""
    forward = bert.forward

    def called(input_ids, attention_mask, past_key_values, **_):
        positions = torch.arange(input_ids.shape[1])[None]
        return forward(input_ids, attention_mask, position_ids=positions, cache=past_key_values)

    bert.forward = called


def curve(name: str, method: str) -> None:
    torch.manual_seed(0)
    seq2seq, classifies = name == "t5", name == "bert"
    if classifies:
        model = AutoModelForSequenceClassification.from_pretrained(GOLDEN / name, num_labels=CLASSES).eval()
        model.bert.pooler = First(LENGTH if method == "soft" else 0)
        if method == "prefix":
            take_prefix(model.bert)
    else:
        loader = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
        model = loader.from_pretrained(GOLDEN / name).eval()
    task = "SEQ_2_SEQ_LM" if seq2seq else "SEQ_CLS" if classifies else "CAUSAL_LM"
    config = None
    if method in OWN:
        for key, value in model.named_parameters():
            value.requires_grad = OWN[method](key) or key.startswith("classifier")
    elif method == "lora":
        config = LoraConfig(task_type=task, r=3, lora_alpha=6, use_rslora=name == "t5", target_modules=LORA[name])
    elif method == "cpt":
        kinds = [4 * of if of else 1 if template else 2 for of, template in zip(LABELS, TEMPLATE, strict=True)]
        config = CPTConfig(
            task_type=task,
            cpt_token_ids=torch.randint(3, model.config.vocab_size, (len(LABELS),)).tolist(),
            cpt_mask=[1] * len(LABELS),
            cpt_tokens_type_mask=kinds,
            opt_weighted_loss_type="decay",
            opt_loss_decay_factor=DECAY,
            opt_projection_epsilon=BOUNDS["text"],
            opt_projection_format_epsilon=BOUNDS["template"],
        )
    elif method == "ia3":
        config = IA3Config(task_type=task, target_modules=IA3[name][0], feedforward_modules=IA3[name][1])
    elif method == "gated_prefix":
        config = AdaptionPromptConfig(task_type=task, adapter_len=LENGTH, adapter_layers=GATED_LAYERS)
    else:
        kind, options = METHODS[method]
        config = kind(task_type=task, num_virtual_tokens=LENGTH, **options)
    peft = model if config is None else get_peft_model(model, config).eval()
    if (name, method) == ("gpt2", "gated_prefix"):
        for block in model.transformer.h[-GATED_LAYERS:]:
            through_projection(block.attn)
    learned = {key: value for key, value in peft.named_parameters() if value.requires_grad}
    if method in ("soft", "multitask"):  # PEFT's start is N(0, 1), far larger than words are
        learned["prompt_encoder.default.embedding.weight"].data *= 0.3
    if method == "multitask":  # and here N(0, 0.02): of prompts that are nearly 0 the gradient is, too
        learned["prompt_encoder.default.prefix_task_cols"].data *= 40
        learned["prompt_encoder.default.prefix_task_rows"].data *= 40
    rate = RATES.get((name, method), RATE)
    kept = {key: value for key, value in learned.items() if config is not None or key.startswith("classifier")}
    arrays = {f"start.{key}": value.detach().clone() for key, value in kept.items()}
    text = rows(model.config.vocab_size)
    target = rows(model.config.vocab_size)
    classes = [row % CLASSES for row in range(ROWS)]
    # A larger epsilon than usual: with the usual one, steps of weights that hardly matter are rounding errors, enlarged.
    optimizer = torch.optim.AdamW(learned.values(), lr=rate, weight_decay=0.0, eps=EPSILON)
    losses = []
    of_task = {"task_ids": torch.arange(ROWS) % TASKS} if method == "multitask" else {}
    for _ in range(STEPS + 1):
        ids = padded(text, 0)
        mask = torch.tensor([[float(at < len(row)) for at in range(ids.shape[1])] for row in text])
        if seq2seq:
            loss = peft(input_ids=ids, attention_mask=mask, labels=padded(target, -100), **of_task).loss
        elif classifies:
            # A row at a time, because transformers' mask of a padded one does not know of a prefix.
            parts = [
                peft(input_ids=torch.tensor([row]), labels=torch.tensor([at]))
                for row, at in zip(text, classes, strict=True)
            ]
            loss = sum(part.loss for part in parts) / ROWS
        else:
            labels = padded([[*[-100] * READ, *row[READ:]] for row in text], -100)
            kinds = {"input_type_mask": torch.where(labels == -100, 2, 4)} if method == "cpt" else {}
            loss = peft(input_ids=ids, attention_mask=mask, labels=labels, **kinds, **of_task).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    arrays["losses"] = torch.tensor(losses)
    if method == "cpt":
        arrays["start.ids"] = torch.tensor(config.cpt_token_ids)
    folder = GOLDEN / "curves"
    folder.mkdir(exist_ok=True)
    meta = {"text": text, "target": target if seq2seq else None, "read": READ, "rate": rate, "length": LENGTH}
    meta |= {"hidden": HIDDEN, "epsilon": EPSILON, "classes": classes if classifies else None}
    if method == "cpt":
        meta |= {"length": len(LABELS), "labels": LABELS, "template": TEMPLATE, "decay": DECAY, "bounds": BOUNDS}
    save_file(arrays, folder / f"{name}.{method}.safetensors", metadata={"case": json.dumps(meta)})
    print(name, method, losses[0], losses[-1], sorted(learned))


if __name__ == "__main__":
    logging.set_verbosity_error()
    for case in CASES:
        if not sys.argv[1:] or ".".join(case) in sys.argv[1:]:
            curve(*case)
