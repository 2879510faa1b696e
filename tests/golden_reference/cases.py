"""What torch computes with a model. Every row goes through it alone and without its padding: what padding does to
Hugging Face's windows, positions and relative distances is nobody's business."""

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

PROMPT, TOKENS, SOURCE, TARGET = 3, 7, 24, 5
NEW, BEAMS, PENALTIES = 8, 3, (1.0, 2.0)
# Longer texts score better by far, so that stopping early misses some.
EARLY_PENALTY = 2.0
ROWS = 3


def text(vocab_size, length, padding_id=None):
    """Returns ids and mask, each [3, length]: row 0 is full, row 1 is padded on the right, row 2 on the left."""
    ids = torch.randint(0, vocab_size, (ROWS, length))
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    mask[2, :3] = 0
    if padding_id is not None:
        # Text that holds the padding token would have no positions of its own in RoBERTa.
        ids[ids == padding_id] = padding_id + 1
        ids[mask == 0] = padding_id
    return ids, mask


def by_row(compute, mask):
    """Calls `compute(row, real)`, which returns arrays [1, real tokens, ...]; returns [3, length, ...], 0 at padding."""
    outputs = []
    for row, real in enumerate(mask.bool()):
        arrays = compute(row, real)
        padded = {name: array.new_zeros(len(real), *array.shape[2:]) for name, array in arrays.items()}
        for name, array in arrays.items():
            padded[name][real] = array[0]
        outputs.append(padded)
    return {name: torch.stack([output[name] for output in outputs]) for name in outputs[0]}


def tensors(arrays):
    return {name: tensor.detach().contiguous().clone() for name, tensor in arrays.items()}


def heads_and_width(config):
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return getattr(config, "num_key_value_heads", None) or heads, width


def expected(model, vocab_size, only=None):
    """Returns inputs and outputs of a decoder or an encoder: plain, with a soft prompt [3, embed], with a prefix of
    keys and values [layers, 3, kv_heads, head_dim]."""
    torch.manual_seed(1)
    config = model.config
    encoder = hasattr(model.base_model, "embeddings")
    # RoBERTa's positions start behind its padding token.
    roberta = config.model_type in ("roberta", "xlm-roberta")
    ids, mask = text(vocab_size, TOKENS, config.pad_token_id if roberta else None)
    start = config.pad_token_id + 1 if roberta else 0
    words = model.get_input_embeddings()
    soft = torch.randn(PROMPT, words.weight.shape[1]) * 0.5
    kv_heads, head_dim = heads_and_width(config)
    shape = (config.num_hidden_layers, PROMPT, kv_heads, head_dim)
    keys, values = torch.randn(shape), torch.randn(shape)
    out = {"ids": ids, "mask": mask, "soft": soft, "prefix_keys": keys, "prefix_values": values}
    cases = ["plain", "soft", "prefix"]
    if encoder and getattr(config, "type_vocab_size", 1) > 1:
        out["types"] = torch.randint(0, 2, (ROWS, TOKENS))
        cases.append("types")
    if config.model_type == "distilbert":
        # It takes no keys and values.
        cases.remove("prefix")

    def compute(row, real, case):
        embeds = words(ids[row, real])
        before = 0
        if case == "soft":
            embeds, before = torch.cat([soft, embeds]), PROMPT
        # A decoder's prefix moves the positions of the text, an encoder's leaves them alone.
        offset = PROMPT if case == "prefix" and not encoder else 0
        arguments = {
            "inputs_embeds": embeds[None],
            "attention_mask": torch.ones(1, len(embeds) + (PROMPT if case == "prefix" else 0), dtype=torch.long),
            "position_ids": (start + offset + torch.arange(len(embeds)))[None],
        }
        if case == "types":
            arguments["token_type_ids"] = out["types"][row : row + 1, real]

        def run(module):
            if case == "prefix":
                # Without a config the cache has no windows of its own, and keeps the whole prefix.
                data = [(k.transpose(0, 1)[None], v.transpose(0, 1)[None]) for k, v in zip(keys, values, strict=True)]
                arguments["past_key_values"] = DynamicCache(ddp_cache_data=data)
            return module(**arguments)

        arrays = {"hidden": run(model.base_model).last_hidden_state}
        whole = run(model)
        if "logits" in whole or "prediction_logits" in whole:
            arrays["logits"] = whole.get("logits", whole.get("prediction_logits"))
        return {name: array[:, before:] for name, array in arrays.items()}

    for case in cases:
        if only is None or case in only:
            arrays = by_row(lambda row, real, case=case: compute(row, real, case), mask)
            out |= {f"{case}_{name}": array for name, array in arrays.items()}
    if getattr(model.base_model, "pooler", None) is not None and only is None:
        out["pooled"] = model.base_model.pooler(out["plain_hidden"])
    return tensors(out)


def expected_seq2seq(model, vocab_size):
    """Returns inputs and outputs of an encoder-decoder: plain, with a soft prompt [3, embed] before the source, with it
    before the target (`decoder_soft`); hidden and logits [3, 5, ...] are those of the target's own tokens."""
    torch.manual_seed(1)
    ids, mask = text(vocab_size, SOURCE)
    decoder_ids = torch.randint(0, vocab_size, (ROWS, TARGET))
    # BART's embedding scales words; a soft prompt stays as it is.
    words = model.get_input_embeddings()
    soft = torch.randn(PROMPT, words.weight.shape[1]) * 0.5
    out = {"ids": ids, "mask": mask, "decoder_ids": decoder_ids, "soft": soft}

    def compute(row, real, case):
        source, target = words(ids[row, real]), words(decoder_ids[row])
        source = torch.cat([soft, source]) if case == "soft" else source
        target = torch.cat([soft, target]) if case == "decoder_soft" else target
        encoded = model.get_encoder()(inputs_embeds=source[None]).last_hidden_state
        hidden = model.get_decoder()(
            inputs_embeds=target[None], encoder_hidden_states=encoded, use_cache=False
        ).last_hidden_state
        outputs = BaseModelOutput(last_hidden_state=encoded)
        logits = model(encoder_outputs=outputs, decoder_inputs_embeds=target[None], use_cache=False).logits
        return encoded[:, -int(real.sum()) :], hidden[:, -TARGET:], logits[:, -TARGET:]

    for case in ("plain", "soft", "decoder_soft"):
        rows = [compute(row, real, case) for row, real in enumerate(mask.bool())]
        if case != "decoder_soft":
            out[f"{case}_encoder_hidden"] = by_row(lambda row, real, rows=rows: {"": rows[row][0]}, mask)[""]
        out[f"{case}_hidden"], out[f"{case}_logits"] = (torch.cat([row[i] for row in rows]) for i in (1, 2))
    return tensors(out)


def generated(model, vocab_size, end, begin=None):
    """Returns greedy and beam continuations of rows of one length and of padded rows, and the settings.

    ids and mask are [3, 7]; `greedy` and `beam_ids` are [3, 8] without the prompt (or the decoder's start), 0 behind the
    end token; beam_scores is [3]. `_1` and `_2` are length penalties, `early_` is a beam search with early_stopping,
    `padded_` is what belongs to the padded rows. With `begin`, `begun_` is what must begin with it and end with the end
    token.
    """
    torch.manual_seed(2)
    seq2seq = model.config.is_encoder_decoder
    ids = torch.randint(3, vocab_size, (ROWS, TOKENS))
    mask = torch.ones_like(ids)
    # A source is padded on the right, a decoder's prompt on the left.
    padding = mask.clone()
    padding[1, -2:] = 0
    padding[2, -3:] = 0
    padding = padding if seq2seq else padding.flip(1)
    settings = {"max_new_tokens": NEW, "eos_token_id": end, "pad_token_id": 0, "early_stopping": False}
    if seq2seq:
        settings["decoder_start_token_id"] = model.config.decoder_start_token_id
    # The settings of its config apart: BART's would force the last token to be its end token.
    model.generation_config = GenerationConfig(**settings)

    def run(mask, **changes):
        """Returns ids [3, 8], and scores [3] or None."""
        options = {**settings, **changes}
        config = GenerationConfig(**options, do_sample=False, return_dict_in_generate=True, output_scores=True)
        found = model.generate(ids * mask, attention_mask=mask, generation_config=config)
        new = found.sequences[:, 1 if seq2seq else TOKENS :]
        new = torch.nn.functional.pad(new, (0, NEW - new.shape[1]))
        # Beam search fills up with the end token where the padding token is 0.
        behind = (new == end).cumsum(1) - (new == end).long() > 0
        return new.masked_fill(behind, 0), found.get("sequences_scores")

    out = {}
    for name, real in (("", mask), ("padded_", padding)):
        out |= {f"{name}ids": ids * real, f"{name}mask": real, f"{name}greedy": run(real)[0]}
        for penalty in PENALTIES:
            found = run(real, num_beams=BEAMS, length_penalty=penalty)
            out[f"{name}beam_ids_{penalty:g}"], out[f"{name}beam_scores_{penalty:g}"] = found
        found = run(real, num_beams=BEAMS, length_penalty=EARLY_PENALTY, early_stopping=True)
        out[f"{name}early_ids"], out[f"{name}early_scores"] = found
    if begin is not None:
        settings["forced_bos_token_id"] = begin
        forced = {"forced_eos_token_id": end, "length_penalty": EARLY_PENALTY}
        out["begun_greedy"] = run(mask, **forced)[0]
        for name, early in (("beam", False), ("early", True)):
            found = run(mask, num_beams=BEAMS, early_stopping=early, **forced)
            out[f"begun_{name}_ids"], out[f"begun_{name}_scores"] = found
    return tensors(out), {**settings, "num_beams": BEAMS}
