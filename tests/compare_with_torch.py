"""Compares jaxprompt with transformers on a model folder of yours; paste what it prints into a bug report.

    python tests/compare_with_torch.py FOLDER [--text TEXT]

Needs torch beside jaxprompt. Prints the largest difference of the outputs (logits, or hidden states of a model without
a head) in float32, with right padding and with left padding, with and without a soft prompt. Exit status 1 when one is
above 1e-3 of the largest output.
"""

import argparse
import sys

import numpy as np
import torch
import transformers

import jaxprompt

TEXTS = ["Once upon a time there was a red ball.", "The weather"]


def their_model(folder: str, backbone):
    """The transformers model whose output corresponds to ours."""
    kind = transformers.AutoModel
    if backbone.has_head:
        kind = transformers.AutoModelForCausalLM if backbone.causal else transformers.AutoModelForMaskedLM
    if backbone.seq2seq:
        kind = transformers.AutoModelForSeq2SeqLM
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def their_output(model, backbone, ids: list[int], soft, targets) -> np.ndarray:
    """Output for one text, unpadded, the soft prompt in front."""
    embed = model.get_input_embeddings()
    parts = [embed(torch.tensor([ids]))]
    if soft is not None:
        parts.insert(0, torch.tensor(soft)[None])
    arguments = {"inputs_embeds": torch.cat(parts, 1)}
    if backbone.seq2seq:
        arguments["decoder_input_ids"] = torch.tensor([targets])
    with torch.no_grad():
        out = model(**arguments)
    array = (out.logits if backbone.has_head else out.last_hidden_state)[0].numpy()
    return array if backbone.seq2seq else array[len(array) - len(ids) :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--text", action="append", help="a text to compare on; may be repeated")
    args = parser.parse_args()
    backbone = jaxprompt.load_backbone(args.folder)
    texts = [backbone.tokenizer(text)["input_ids"] for text in args.text or TEXTS]
    model = their_model(args.folder, backbone)
    targets = [backbone.config.start_id, *texts[0][:4]] if backbone.seq2seq else None
    soft = np.random.default_rng(0).normal(size=(3, backbone.soft_size)).astype(np.float32)
    soft *= float(model.get_input_embeddings().weight.detach().std())
    length, worst = max(map(len, texts)), 0.0
    for name, prompt in (("plain", None), ("soft prompt", soft)):
        want = [their_output(model, backbone, ids, prompt, targets) for ids in texts]
        for side in ("right", "left"):
            ids, mask = np.zeros((2, len(texts), length), np.int32)
            for row, tokens in enumerate(texts):
                here = slice(0, len(tokens)) if side == "right" else slice(length - len(tokens), length)
                ids[row, here], mask[row, here] = tokens, 1
            more = {"decoder_input_ids": [targets] * len(texts)} if backbone.seq2seq else {}
            run = backbone.logits if backbone.has_head else backbone.hidden
            got = np.asarray(run(ids, mask, prompt, **more))
            rows = got if backbone.seq2seq else [row[seen != 0] for row, seen in zip(got, mask, strict=True)]
            difference = max(float(np.abs(a - b).max()) for a, b in zip(rows, want, strict=True))
            scale = max(float(np.abs(b).max()) for b in want)
            worst = max(worst, difference / scale)
            print(f"{name}, padded on the {side}: largest difference {difference:.2e} (largest output {scale:.2e})")
    versions = f"jaxprompt {jaxprompt.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    print(f"model_type {backbone.family}, {versions}")
    return int(worst > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
