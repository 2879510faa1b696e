"""Models of known shapes with random weights, and tokenizers trained on a workload's own texts."""

from collections.abc import Iterable, Sequence
from pathlib import Path

GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024}
LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
T5 = {"model_type": "t5", "vocab_size": 32128, "decoder_start_token_id": 0}
# name -> config.json; the weights are drawn by the model class's own initialisation.
SHAPES: dict[str, dict] = {
    "gpt2": {**GPT2, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-large": {**GPT2, "n_embd": 1280, "n_layer": 36, "n_head": 20},
    "t5-small": {**T5, "d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "d_kv": 64},
    "t5-v1_1-xl": {
        **{**T5, "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32, "d_kv": 64},
        **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    },
    "bert-large": {
        **{"model_type": "bert", "vocab_size": 30522, "hidden_size": 1024, "num_hidden_layers": 24},
        **{"num_attention_heads": 16, "intermediate_size": 4096},
    },
    "llama-small": {
        **{**LLAMA, "vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16},
        **{"num_key_value_heads": 4, "intermediate_size": 2816, "max_position_embeddings": 2048},
    },
    "llama-tiny": {
        **{**LLAMA, "vocab_size": 2000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "max_position_embeddings": 8192},
    },
    "llama32-3b": {
        **{**LLAMA, "vocab_size": 128256, "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24},
        **{"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "max_position_embeddings": 8192},
    },
}
END, PAD, START = "<|end|>", "<|pad|>", "<|start|>"
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout_rate", "hidden_dropout_prob")
DROPOUTS += ("attention_probs_dropout_prob", "attention_dropout")


def _config(shape: str):
    import transformers

    settings = dict(SHAPES[shape])
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, None, 1
    return config


def save_config(shape: str, folder: Path) -> None:
    """Writes the config.json of a model of a shape."""
    _config(shape).save_pretrained(folder)


def save_model(shape: str, folder: Path, dtype: str = "float32", seed: int = 0, device: str = "cpu") -> None:
    """Writes a model of a shape in Hugging Face files, its weights drawn by a seed."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = _config(shape)
    classes = {
        "t5": transformers.AutoModelForSeq2SeqLM,
        "bert": transformers.AutoModel,
    }
    torch.manual_seed(seed)
    with torch.device(device):
        model = classes.get(config.model_type, transformers.AutoModelForCausalLM).from_config(
            config, dtype=getattr(torch, dtype)
        )
    model.save_pretrained(folder)


def train_tokenizer(texts: Iterable[str], vocab_size: int, words: Sequence[str], family: str):
    """A byte-level BPE tokenizer of up to `vocab_size` tokens, trained on the texts.

    The label words come out as one token, behind a space and without. As in the models' own tokenizers, T5's puts an
    end-of-sequence token behind a text, BERT's a token on either side, a decoder's nothing.
    """
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Often enough to be merged before anything else of the corpus runs out.
    extra = [text for word in words for text in (word, f" {word}")] * 10000
    backend.train_from_iterator([*texts, *extra], trainer)
    around = {"t5": f"$A {END}:0", "bert": f"{START}:0 $A {END}:0"}.get(family)
    if around is not None:
        ids = [(token, backend.token_to_id(token)) for token in (START, END)]
        backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    special = {"pad_token": PAD, "eos_token": END, "clean_up_tokenization_spaces": False}
    special |= {"cls_token": START, "sep_token": END} if family == "bert" else {}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
