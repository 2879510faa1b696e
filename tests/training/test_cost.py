"""What a step costs, read from the compiled program, so that no fast path is lost unnoticed."""

import dataclasses

import jax
import optax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from jaxprompt.backbone import random_backbone
from jaxprompt.config import load_config
from jaxprompt.dataset import TrainingData
from jaxprompt.experiment import build
from jaxprompt.sharding import replicated, row_sharding
from jaxprompt.training.step import init_state, make_train_step
from tests.training.test_step import GENERATION, prepared


@pytest.fixture(scope="module")
def decoder(stories):
    """A decoder in which the weights cost more than attention does; any vocabulary, width or depth."""

    def make(**changes):
        sizes = {
            "hidden_size": 256,
            "num_layers": 3,
            "num_heads": 4,
            "num_kv_heads": 4,
            "head_dim": 64,
            "mlp_size": 1024,
        }
        config = dataclasses.replace(stories.config, **sizes | changes)
        return random_backbone(config, tokenizer=stories.tokenizer)

    return make


def compiled(backbone, rows, template, with_weights=False):
    """The compiled gradient of a batch's loss with respect to the prompt (and the weights, too)."""
    forward, trainable, batch = prepared(backbone, rows, {"template": template, **GENERATION})

    def loss(trainable, params, frozen, batch):
        return forward(trainable, {**frozen, "params": params}, batch).loss

    frozen = forward.frozen()
    gradient = jax.jit(jax.grad(loss, (0, 1) if with_weights else 0))
    return gradient.lower(trainable, frozen.pop("params"), frozen, batch).compile(), batch


def flops(*args, **kwargs):
    return compiled(*args, **kwargs)[0].cost_analysis()["flops"]


def test_a_step_costs_much_less_than_one_with_the_weights_gradients(decoder, rows):
    template = "{soft:5}{text}{target}"
    assert flops(decoder(), rows, template) < 0.7 * flops(decoder(), rows, template, with_weights=True)


@pytest.mark.parametrize("attention", ["xla", "cudnn"])
def test_a_step_has_a_program_for_a_gpu(stories, rows, monkeypatch, attention):
    # What JAX asks of the machine on its way to a program with cuDNN in it.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda capability: True)
    backbone = random_backbone(stories.config, tokenizer=stories.tokenizer, dtype="bfloat16", attention=attention)
    forward, trainable, batch = prepared(backbone, rows, {"template": "{soft:4}{text}{target}", **GENERATION})
    optimizer = optax.adam(0.1)
    step = make_train_step(forward, optimizer)
    traced = step.jitted.trace(step.frozen, init_state(trainable, optimizer), batch)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    for name in ("fmhaScaleBiasSoftmax(", "fmhaScaleBiasSoftmaxBackward("):
        assert (f"__cudnn${name}" in program) == (attention == "cudnn")


def test_a_longer_prompt_costs_its_own_length_and_not_every_examples(decoder, rows):
    backbone, rows = decoder(), rows * 4
    short, long = (flops(backbone, rows, f"{{soft:{length}}}{{text}}{{target}}") for length in (4, 104))
    layers = sum(leaf.size for leaf in jax.tree.leaves(backbone.params["layers"]))
    in_every_example = 4 * layers * 100 * len(rows)
    assert 4 * layers * 100 * 0.5 < long - short < 0.1 * in_every_example


def test_no_buffer_holds_logits_of_all_tokens(decoder, rows):
    vocab = 100_000
    backbone = decoder(
        vocab_size=vocab, hidden_size=32, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=32, mlp_size=32
    )
    program, batch = compiled(backbone, rows * 16, "{soft:3}{text}{target}")
    assert program.memory_analysis().temp_size_in_bytes < 0.5 * 4 * vocab * batch.target_at.size


def test_memory_is_what_the_policy_keeps(decoder, rows):
    """The outputs of the weight matmuls, of every layer, and little else."""
    width, mlp, layers = 64, 256, 24
    backbone = decoder(hidden_size=width, mlp_size=mlp, num_layers=layers, num_heads=1, num_kv_heads=1)
    program, batch = compiled(backbone, rows * 8, "{soft:3}{text}{target}")
    # The residual stream, queries, keys, values, and the outputs of attention, gate, up and down.
    kept = 4 * (batch.inputs.ids.size + 3) * layers * (6 * width + 2 * mlp)
    assert program.memory_analysis().temp_size_in_bytes < 1.3 * kept


def test_an_epoch_of_real_data_compiles_two_programs_at_most(masked):
    config = {
        "model": "m",
        "template": "{soft:2}{text}",
        "objective": {"type": "classifier"},
        "data": {"train": "package:jaxprompt/quickstart/banking77_train.csv", "label": "category"},
    }
    experiment = build(load_config(config), masked)
    data = TrainingData.load(experiment)
    optimizer = optax.sgd(1e-3)
    step = make_train_step(experiment.forward(data.hoisted), optimizer)
    state = jax.device_put(init_state(experiment.init_trainable(), optimizer), replicated(masked.mesh))
    batches = data.train_batches(0)
    for _ in range(len(data.train.examples) // data.train.order.batch_size):
        state, _ = step(state, jax.device_put(next(batches), row_sharding(masked.mesh)))
    assert 1 <= step.jitted._cache_size() <= 2
