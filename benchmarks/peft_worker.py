"""PEFT's side of `vs_peft.py` and `card.py`: the same rows, tokenised and padded by itself.

The models are PEFT's and transformers'.

A setting is how attention is computed ("sdpa", "eager"), "-causal" where no mask is given to a decoder (padding is
on the right, so that causal attention never reaches it), and "-compile" for torch.compile.

Logits are computed at the scored positions only, which is less than the usual path with `labels`.
"""

import importlib.util
import json
import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import common
import numpy as np
import torch
import torch.nn.functional as F
import transformers
import worker
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from prepare import read_workload

warnings.filterwarnings("ignore", category=FutureWarning)
transformers.utils.logging.disable_progress_bar()


class Side:
    """One workload."""

    def __init__(self, folder: Path):
        self.folder, work = folder, read_workload(folder)
        self.work, self.length, self._keep = work, work["prompt_length"], None
        self.device = os.environ.get("TORCH_DEVICE", "cpu")
        if self.device == "cuda":
            torch.cuda.set_per_process_memory_fraction(float(os.environ.get("MEMORY_SHARE", "1")))
            torch.set_float32_matmul_precision("high")  # as JAX by default
        else:
            torch.set_num_threads(int(os.environ.get("TORCH_THREADS") or len(os.sched_getaffinity(0))))
        self.model_folder = reference_path(work["model"])
        self.family = json.loads((self.model_folder / "config.json").read_text())["model_type"]
        self.classifier = work["objective"] == "classifier"
        self.seq2seq = self.family == "t5"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.model_folder)
        self._encode()

    def _encode(self) -> None:
        """Token ids of all rows, from the template's text and the tokenizer alone."""
        work = self.work
        rows = common.read_records(self.folder / "rows.jsonl")
        template = work["peft_template"] or work["template"]
        ahead, _, context = (
            template.rpartition(f"{{soft:{self.length}}}") if work["method"] == "soft" else ("", "", template)
        )
        generates = work["objective"] == "generation"
        space = ""
        if "{target}" in context:
            context = context.removesuffix("{target}")
            space = " " if context.endswith(" ") and not self.seq2seq else ""
            context = context.removesuffix(" ")
        self.ahead = self.tokenizer(ahead.format())["input_ids"] if ahead else []
        # What stands before the rows' own tokens.
        self.front = len(self.ahead) + (self.length if work["method"] == "soft" else 0)
        self.ids = [self.tokenizer(context.format(**row))["input_ids"] if context else [] for row in rows]
        plain = partial(self.tokenizer, add_special_tokens=False)
        if generates:
            eos = [self.tokenizer.eos_token_id]
            self.targets = [plain(space + row["target"])["input_ids"] + eos for row in rows]
        else:
            self.labels = [list(work["labels"]).index(row["label"]) for row in rows]
        if work["objective"] == "verbalizer":
            words = [plain(space + word)["input_ids"] for word in work["labels"].values()]
            if any(len(word) != 1 for word in words):
                raise ValueError(f"label words are not single tokens: {words}")
            self.columns = torch.tensor([word[0] for word in words], device=self.device)

    def settings(self, compiled: bool) -> dict:
        """Names of the settings to choose from."""
        causal = [] if self.seq2seq or self.classifier else ["sdpa-causal"]
        names = ["sdpa", *causal, "eager"]
        return {"settings": [*names, *(f"{name}-compile" for name in names if name != "eager")] if compiled else names}

    def setup(self, setting: str, accumulate: int) -> dict:
        """Loads the model; the prompt starts from init.npz, and the rows of each step are those of batches.npy."""
        work, start = self.work, time.perf_counter()
        model = self._loaded(setting.split("-")[0])
        task = "SEQ_2_SEQ_LM" if self.seq2seq else "FEATURE_EXTRACTION" if self.classifier else "CAUSAL_LM"
        method = PrefixTuningConfig if work["method"] == "prefix" else PromptTuningConfig
        config = method(task_type=task, num_virtual_tokens=self.length, num_transformer_submodules=1)
        # In eval mode there is no dropout; PEFT's and torch's gradients do not depend on it otherwise.
        self.model = get_peft_model(model, config).to(self.device).eval()
        if setting.endswith("-compile"):
            self.model.get_base_model().compile(dynamic=True)
        self.prompt = self.model.prompt_encoder["default"].embedding.weight
        self.head = None
        self.batches = np.load(self.folder / "batches.npy")
        self.init = {name: torch.tensor(value) for name, value in np.load(self.folder / "init.npz").items()}
        if self.classifier:
            self.head = torch.nn.Linear(*reversed(self.init["head_weight"].shape)).to(self.device)
        self.setting, self.accumulate = setting, accumulate
        self.reset()
        trained = [name for name, p in self.model.named_parameters() if p.requires_grad]
        return {
            "loading_seconds": time.perf_counter() - start,
            "setting": setting,
            "device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
            "accumulate": accumulate,
            "trained": trained,
            "padded_tokens_per_step": self._area(),
        }

    def _loaded(self, attention: str):
        """The frozen model."""
        classes = {"t5": transformers.AutoModelForSeq2SeqLM, "bert": transformers.AutoModel}
        model = classes.get(self.family, transformers.AutoModelForCausalLM).from_pretrained(
            self.model_folder, dtype=getattr(torch, self.work["dtype"]), attn_implementation=attention
        )
        model.config.use_cache = False
        if not (self.seq2seq or self.classifier):
            # As `logits_to_keep`, which takes no mask of positions in some versions of transformers.
            model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (self._kept(*given),))
        return model.to(self.device)

    def _kept(self, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden states at the positions `self._keep`: `[rows, n]` of them, or a mask of all; None: all."""
        if self._keep is None:
            return hidden
        if self._keep.dtype == torch.bool:
            return hidden[self._keep]
        return hidden.gather(1, self._keep[:, :, None].expand(-1, -1, hidden.shape[-1]))

    def _area(self) -> float:
        generates = self.work["objective"] == "generation"
        lengths = np.array([len(ids) + (len(self.targets[i]) if generates else 0) for i, ids in enumerate(self.ids)])
        padded = self.front + self.seq2seq + lengths[self.batches].max(axis=1)
        return float(self.batches.shape[1] * padded.mean())

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the start: the prompt's first values, a new optimizer, the first batch."""
        self.prompt.copy_(self._to_peft(self.init))
        trained = [self.prompt]
        if self.head is not None:
            self.head.weight.copy_(self.init["head_weight"])
            self.head.bias.copy_(self.init["head_bias"])
            trained += self.head.parameters()
        rate = self.work["learning_rate"]
        self.optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
        self.at = 0

    def round(self, steps: int) -> dict:
        """The next steps, padding of their rows included."""
        start = time.perf_counter()
        pending = [self._step() for _ in range(steps)]
        if self.device == "cuda":
            torch.cuda.synchronize()
        return {"seconds": (time.perf_counter() - start) / steps, "losses": [float(loss) for loss in pending]}

    @torch.no_grad()
    def generate(self, count: int, tokens: int) -> dict:
        """Writes so many tokens behind the first rows' texts, padded on the left."""
        self._keep = None
        start = time.perf_counter()
        rows = self.ids[:count]
        width, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        how = {"max_new_tokens": tokens, "do_sample": False, "use_cache": True, "pad_token_id": pad}
        written = self.model.generate(input_ids=ids, attention_mask=mask, **how)
        texts = self.tokenizer.batch_decode(written[:, -tokens:])
        return {"seconds": time.perf_counter() - start, "texts": texts[:2]}

    def finish(self, path: str) -> dict:
        """Writes what was learned."""
        arrays = self._from_peft(self.prompt.detach().cpu())
        if self.head is not None:
            arrays |= {f"head_{name}": value.detach().cpu() for name, value in self.head.named_parameters()}
        np.savez(path, **{name: value.numpy() for name, value in arrays.items()})
        on_device = self.device == "cuda"
        peak = torch.cuda.max_memory_allocated() if on_device else common.peak_rss()
        return {"peak_memory_bytes": peak, "peak_memory_of": "device" if on_device else "process"}

    def _to_peft(self, arrays: dict) -> torch.Tensor:
        if self.work["method"] == "soft":
            return arrays["soft"]
        both = torch.stack([arrays["keys"], arrays["values"]], dim=1)  # [layers, 2, prefix, heads, head_dim]
        return both.permute(2, 0, 1, 3, 4).reshape(self.length, -1)

    def _from_peft(self, prompt: torch.Tensor) -> dict:
        if self.work["method"] == "soft":
            return {"soft": prompt}
        layers, _, heads, width = self.init["keys"].shape
        both = prompt.view(self.length, layers, 2, heads, width).permute(2, 1, 0, 3, 4)
        return {"keys": both[0], "values": both[1]}

    def _step(self) -> torch.Tensor:
        """One optimizer step over the next examples; returns its mean loss."""
        numbers = self.batches[self.at % len(self.batches)].tolist()
        self.at += 1
        self.optimizer.zero_grad(set_to_none=True)
        part = len(numbers) // self.accumulate
        parts = [numbers[i : i + part] for i in range(0, len(numbers), part)]
        weights = [
            sum(len(self.targets[i]) for i in p) if self.work["objective"] == "generation" else len(p) for p in parts
        ]
        total = torch.zeros((), device=self.device)
        for p, weight in zip(parts, weights, strict=True):
            loss = self._loss(p) * (weight / sum(weights))
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        return total

    def _loss(self, numbers: list[int]) -> torch.Tensor:
        if self.work["objective"] == "generation":
            return self._generation_loss(numbers)
        labels = torch.tensor([self.labels[i] for i in numbers], device=self.device)
        return F.cross_entropy(self.label_logits(numbers), labels)

    def label_logits(self, numbers: list[int]) -> torch.Tensor:
        """`[rows, labels]` of the rows of these numbers."""
        ids, mask = self._pad([self.ids[i] for i in numbers])
        if self.classifier:
            logits = self._class_logits(ids, mask)
        elif self.seq2seq:
            start = torch.full((len(numbers), 1), self.model.config.decoder_start_token_id, device=self.device)
            out = self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=False)
            logits = out.logits[:, 0, self.columns]
        else:
            last = torch.tensor([[self.front + len(self.ids[i]) - 1] for i in numbers], device=self.device)
            logits = self._decoder_logits(ids, mask, last)[:, 0, self.columns]
        return logits.float()

    def _generation_loss(self, numbers: list[int]) -> torch.Tensor:
        rows = [self.ids[i] + self.targets[i] for i in numbers]
        ids, mask = self._pad(rows)
        scored = torch.zeros((len(rows), self.front + ids.shape[1]), dtype=torch.bool)
        for row, i in enumerate(numbers):
            # The hidden state before a token predicts it; the prompt's last one may be among them.
            first = self.front + len(self.ids[i]) - 1
            scored[row, first : first + len(self.targets[i])] = True
        targets = torch.tensor([token for i in numbers for token in self.targets[i]], device=self.device)
        logits = self._decoder_logits(ids, mask, scored.to(self.device))
        return F.cross_entropy(logits.float(), targets)

    def _decoder_logits(self, ids, mask, keep) -> torch.Tensor:
        """Logits at the positions `keep`, the prompt counted: `[rows, n]` of them, or a mask of all."""
        self._keep = keep
        mask = None if self.setting.startswith("sdpa-causal") else mask
        if not self.ahead:
            return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        rows = len(ids)
        words = self.model.word_embeddings
        ahead = words(torch.tensor(self.ahead, device=self.device)).expand(rows, -1, -1)
        prompt = self.model.get_prompt(batch_size=rows).to(ahead.dtype)
        embeds = torch.cat([ahead, prompt, words(ids)], dim=1)
        mask = None if mask is None else F.pad(mask, (self.front, 0), value=1)
        base = self.model.get_base_model()
        return base(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits

    def _class_logits(self, ids, mask) -> torch.Tensor:
        """Logits of the linear head on the mean over the text's tokens."""
        more = {}
        if self.work["method"] == "prefix":
            # PEFT adds the prefix's length to the positions; here, as without a prefix, the text starts at 0.
            more["position_ids"] = (torch.arange(ids.shape[1], device=self.device) - self.length)[None].expand_as(ids)
        hidden = self.model(input_ids=ids, attention_mask=mask, **more).last_hidden_state[:, -ids.shape[1] :].float()
        weight = mask[:, :, None].float()
        return self.head((hidden * weight).sum(1) / weight.sum(1))

    def _pad(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, padded on the right to the longest."""
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids.to(self.device), mask.to(self.device)


def reference_path(ref: str) -> Path:
    """Where a reference's folder or file is."""
    if not ref.startswith("package:"):
        return Path(ref)
    package, _, path = ref.removeprefix("package:").partition("/")
    return Path(importlib.util.find_spec(package).submodule_search_locations[0]) / path


if __name__ == "__main__":
    worker.serve(Side(Path(sys.argv[1])))
