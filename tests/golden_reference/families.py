"""The tiny Hugging Face models: what each folder of tests/golden is to show."""

import torch
import transformers as hf

V = 61
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}


def size(**changes):
    """Sizes in the words of most families."""
    sizes = {
        "vocab_size": V,
        "hidden_size": 24,
        "intermediate_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    return {**sizes, **changes}


def gqa(**changes):
    """head_dim 10 is not hidden_size / heads, and four query heads share two kv heads."""
    return size(**{"num_key_value_heads": 2, "head_dim": 10, **changes})


LLAMA = gqa()


def gpt(**changes):
    return {"vocab_size": V, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 4, **changes}


def opt(**changes):
    sizes = {"ffn_dim": 36, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 32}
    return {"vocab_size": V, "hidden_size": 24, **sizes, **changes}


def phi3(**changes):
    # The family's own padding token lies outside so small a vocabulary.
    return hf.Phi3Config(**size(hidden_size=32, pad_token_id=0, **changes))


def electra(**changes):
    return hf.ElectraConfig(**size(max_position_embeddings=32, **changes))


def t5(**changes):
    """Two heads of 10 are not d_model, and the two stacks differ in depth."""
    sizes = {"vocab_size": V, "d_model": 24, "d_kv": 10, "d_ff": 20, "num_heads": 2}
    return {**sizes, "num_layers": 3, "num_decoder_layers": 2, "decoder_start_token_id": 0, **changes}


def bart(**changes):
    sizes = {"encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 28, "decoder_ffn_dim": 20}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 3}
    return {"vocab_size": V, "d_model": 24, "max_position_embeddings": 32, **sizes, **heads, **changes}


def own_head(model):
    """T5 1.1 and its kin store a head of their own, though transformers 5 builds every T5 with a shared one."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


GPT2_VARIANT = {
    "n_inner": 20,
    "activation_function": "relu",
    "scale_attn_weights": False,
    "tie_word_embeddings": False,
}
OPT_350M = {"do_layer_norm_before": False, "word_embed_proj_dim": 16}
OPT_VARIANT = {"enable_bias": False, "layer_norm_elementwise_affine": False, "tie_word_embeddings": False}
PARTIAL = {"rope_theta": 100.0, "partial_rotary_factor": 0.5}
SCALES = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.6,
    "logits_scaling": 0.5,
}
GEMMA2 = {
    "head_dim": 10,
    "query_pre_attn_scalar": 16,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 2.0,
    "sliding_window": 4,
}
GEMMA3 = {"head_dim": 10, "num_hidden_layers": 4, "query_pre_attn_scalar": 16, "sliding_window": 4}

CAUSAL = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt())),
    "gpt2-variant": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt(**GPT2_VARIANT))),
    "gpt2-by-layer": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt(scale_attn_by_inverse_layer_idx=True))),
    "llama-untied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)),
    "llama3-tied-biases": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            **LLAMA, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rope_parameters=dict(LLAMA3)
        )
    ),
    # Within max_position_embeddings a dynamic rotary embedding is the plain one.
    "llama-dynamic": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            **size(num_key_value_heads=1),
            rope_parameters={"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0},
        )
    ),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**opt())),
    # As opt-350m: norms behind, none at the end, words narrower than the layers.
    "opt-350m": lambda: hf.OPTForCausalLM(hf.OPTConfig(**opt(**OPT_350M))),
    "opt-variant": lambda: hf.OPTForCausalLM(hf.OPTConfig(**opt(ffn_dim=37, **OPT_VARIANT))),
    "gpt-neo": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(**size(attention_types=[[["global", "local"], 1], [["local"], 1]], window_size=4))
    ),
    "gptj": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**gpt(rotary_dim=4))),
    "gpt-neox": lambda: hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(**size(hidden_size=32), rope_parameters={"rope_type": "default", **PARTIAL})
    ),
    "gpt-neox-sequential": lambda: hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(
            **size(hidden_size=32), use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True
        )
    ),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**size(num_key_value_heads=2), sliding_window=4)),
    "mistral-full": lambda: hf.MistralForCausalLM(hf.MistralConfig(**gqa(), sliding_window=None)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**size(num_key_value_heads=2), tie_word_embeddings=True)),
    "qwen2-windows": lambda: hf.Qwen2ForCausalLM(
        hf.Qwen2Config(**size(num_key_value_heads=2), use_sliding_window=True, sliding_window=4, max_window_layers=1)
    ),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**gqa())),
    "phi3": lambda: hf.Phi3ForCausalLM(
        phi3(num_key_value_heads=2, sliding_window=4, rope_parameters={"rope_type": "default", **PARTIAL})
    ),
    # The text stays below 32 positions, so the short factors hold; cos and sin have a factor all the same.
    "phi3-longrope": lambda: hf.Phi3ForCausalLM(phi3(original_max_position_embeddings=32)),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**gqa(num_key_value_heads=1))),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**size(num_key_value_heads=2, **GEMMA2))),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**size(num_key_value_heads=1, **GEMMA3))),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**size(num_key_value_heads=2))),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**size(num_key_value_heads=2, **SCALES))),
}
ENCODERS = {
    "bert": lambda: hf.BertModel(hf.BertConfig(**size(max_position_embeddings=32))),
    "bert-pretraining": lambda: hf.BertForPreTraining(hf.BertConfig(**size(max_position_embeddings=32))),
    # The head's older bias differs from the one that an untied head has of its own.
    "bert-untied": lambda: hf.BertForMaskedLM(
        hf.BertConfig(**size(max_position_embeddings=32), tie_word_embeddings=False)
    ),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**size(max_position_embeddings=34), type_vocab_size=1)),
    "roberta-untied": lambda: hf.RobertaForMaskedLM(
        hf.RobertaConfig(**size(max_position_embeddings=34), type_vocab_size=1, tie_word_embeddings=False)
    ),
    "roberta-pad": lambda: hf.RobertaForMaskedLM(
        hf.RobertaConfig(**size(max_position_embeddings=36), type_vocab_size=1, pad_token_id=3, hidden_act="quick_gelu")
    ),
    "xlm-roberta": lambda: hf.XLMRobertaModel(
        hf.XLMRobertaConfig(**size(max_position_embeddings=34), type_vocab_size=1)
    ),
    "distilbert": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(vocab_size=V, dim=24, hidden_dim=36, n_layers=3, n_heads=4, max_position_embeddings=32)
    ),
    "electra": lambda: hf.ElectraModel(electra(embedding_size=16)),
    "electra-pretraining": lambda: hf.ElectraForPreTraining(electra(embedding_size=24)),
    "electra-generator": lambda: hf.ElectraForMaskedLM(electra(embedding_size=16)),
}
SEQ2SEQ = {
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**t5())),
    # 24 tokens reach the last bucket.
    "t5-buckets": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**t5(relative_attention_num_buckets=8, relative_attention_max_distance=16))
    ),
    "t5-v1_1": lambda: own_head(hf.T5ForConditionalGeneration(hf.T5Config(**t5(feed_forward_proj="gated-gelu")))),
    "ul2": lambda: own_head(
        hf.T5ForConditionalGeneration(
            hf.T5Config(
                **t5(feed_forward_proj="gated-silu", tie_word_embeddings=False, num_layers=2, num_decoder_layers=3)
            )
        )
    ),
    "byt5": lambda: own_head(
        hf.T5ForConditionalGeneration(hf.T5Config(**t5(feed_forward_proj="gated-gelu", d_ff=29, num_decoder_layers=1)))
    ),
    "mt5": lambda: own_head(hf.MT5ForConditionalGeneration(hf.MT5Config(**t5()))),
    "bart": lambda: hf.BartModel(hf.BartConfig(**bart())),
    "bart-scaled": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**bart(scale_embedding=True))),
    "mbart": lambda: hf.MBartForConditionalGeneration(
        hf.MBartConfig(**bart(scale_embedding=True), decoder_start_token_id=2)
    ),
}
MODELS = {**CAUSAL, **ENCODERS, **SEQ2SEQ}
# Classes that read a folder, where they are not those that wrote it.
READERS = {"electra-pretraining": hf.ElectraModel, "bart": hf.BartForConditionalGeneration}
# Most published folders do not hold what transformers 5 writes into config.json: names to take out, and to put in.
PUBLISHED = {
    "gpt-neox-sequential": (["rope_parameters"], {"rotary_pct": 0.75, "rotary_emb_base": 100.0}),
    "qwen2-windows": (["rope_parameters", "layer_types"], {"rope_theta": 100.0}),
    "phi3-longrope": (
        ["rope_parameters"],
        {**PARTIAL, "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}},
    ),
    "gemma3": (
        ["rope_parameters", "layer_types"],
        {
            "rope_theta": 1000.0,
            "rope_local_base_freq": 100.0,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "sliding_window_pattern": 3,
        },
    ),
    **{
        name: (["scale_decoder_outputs", "dense_act_fn", "is_gated_act"], {"tie_word_embeddings": False})
        for name in ("t5-v1_1", "byt5", "mt5")
    },
}
# Rotary scalings with the weights of llama-untied.
ROPES = {"llama-linear": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}, "llama-yarn": YARN}
# Of the weights, where those of seed 0 repeat a token for ever.
SEEDS = {"bart": 3}
# End tokens that some rows come to within eight tokens and others do not, by either search (GPT-J's: by beam search).
GENERATES = {
    **{"gpt2": 28, "gptj": 48, "gpt-neox": 32, "opt": 60, "llama-untied": 27, "phi3": 36, "gemma2": 17},
    **{"t5-v1_1": 59, "bart": 4},
}
# What texts must begin with, in a case of its own.
BEGINS = {"bart": 0}
