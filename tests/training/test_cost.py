"""What a step costs, read from its jaxpr and its compiled program, so that no fast path is lost unnoticed."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from jaxprompt.backbone import random_backbone
from jaxprompt.config import load_config
from jaxprompt.data.sources import read_rows
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.machine.packages import in_package
from jaxprompt.machine.sharding import replicated, row_sharding
from jaxprompt.training.step import init_state, make_train_step
from tests.flops import flops, products, total
from tests.training.test_step import GENERATION, ONE_TOKEN, PREFIX, SEVERAL_TOKENS, prepared, unrolled

QUICKSTART = "package:jaxprompt/quickstart/banking77_train.csv"


@pytest.fixture(scope="module")
def decoder(stories):
    """A decoder in which the weights cost more than attention does; any vocabulary, width or depth."""

    def make(**changes):
        sizes = {
            "hidden_size": 256,
            "num_layers": 4,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 64,
            "mlp_size": 1024,
        }
        config = dataclasses.replace(stories.config, **sizes | changes)
        return random_backbone(config, tokenizer=stories.tokenizer)

    return make


def step_of(backbone, rows, case, with_weights=False, **data):
    """The gradient of a batch's loss by the prompt (and the weights), its arguments, the shared tokens, the batch."""
    case = {"template": case} if isinstance(case, str) else case
    forward, trainable, batch = prepared(backbone, rows, case | GENERATION, **data)

    def loss(trainable, params, frozen, batch):
        return forward(trainable, {**frozen, "params": params}, batch).loss

    frozen = forward.frozen()
    arguments = trainable, frozen.pop("params"), frozen, batch
    return jax.grad(loss, (0, 1) if with_weights else 0), arguments, len(forward.hoisted), batch


def compiled(backbone, rows, template):
    gradient, arguments, _, batch = step_of(backbone, rows, template)
    return jax.jit(gradient).lower(*arguments).compile(), batch


def step_flops(*args, **kwargs):
    gradient, arguments, *_ = step_of(*args, **kwargs)
    return flops(gradient, *arguments)


def by_weights_and_attention(*args, **kwargs):
    """The products of tokens with weights, those of tokens with tokens; and the shared tokens and the batch."""
    gradient, arguments, *shapes = step_of(*args, **kwargs)
    found = products(gradient, *arguments)
    return [p for p in found if not p.batched], [p for p in found if p.batched], *shapes


def sizes_of(config):
    """The numbers in a layer's weights: of queries, of keys and values, of all others."""
    queries, keys = (config.hidden_size * heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads))
    return queries, 2 * keys, queries + 3 * config.hidden_size * config.mlp_size


def weight_flops(config, tokens, scored):
    """A multiplication and an addition per number of a weight, forward and backward.

    All tokens need the last layer's keys and values; the rest of it, and the head, is for the scored.
    """
    queries, keys_values, others = sizes_of(config)
    layers = tokens * (config.num_layers - 1) * (queries + keys_values + others)
    last = tokens * keys_values + scored * (queries + others)
    return 4 * (layers + last + scored * config.hidden_size * config.vocab_size)


@pytest.mark.parametrize(("policy", "times"), [("nothing_saveable", 3), ("dots_saveable", 2)])
def test_products_in_a_scan_count_as_often_as_they_are_computed(policy, times):
    layer = jax.checkpoint(lambda x, w: jnp.tanh(x @ w), policy=getattr(jax.checkpoint_policies, policy))

    def loss(x, w):
        x @ w.T  # nothing needs it
        return (jax.lax.scan(lambda x, _: (layer(x, w), None), x, length=5)[0] ** 2).sum()

    x, w = jnp.ones((3, 4)), jnp.ones((4, 4))
    once = 2 * 3 * 4 * 4
    assert flops(loss, x, w) == 5 * once
    # Forward, backward, and forward again if it was not kept; and once more for the weights' own gradients.
    assert flops(jax.grad(loss), x, w) == 5 * times * once
    assert flops(jax.jit(jax.grad(loss, (0, 1))), x, w) == 5 * (times + 1) * once


def test_products_of_a_branch_count_at_their_most_and_of_an_open_loop_once():
    x, w = jnp.ones((3, 4)), jnp.ones((4, 4))

    def branch(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

    def loop(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ w, x)

    rule = jax.custom_vjp(lambda x: x @ w)
    rule.defvjp(lambda x: (x @ w, None), lambda _, g: (g @ w.T @ w,))
    once = 2 * 3 * 4 * 4
    assert [flops(f, x) for f in (branch, loop, rule)] == [2 * once, once, once]
    assert flops(jax.grad(lambda x: (rule(x) ** 2).sum()), x) == 3 * once


def test_a_step_costs_much_less_than_one_with_the_weights_gradients(decoder, rows):
    template = "{soft:5}{text}{target}"
    assert step_flops(decoder(), rows, template) < 0.7 * step_flops(decoder(), rows, template, with_weights=True)


def test_the_last_layer_is_computed_at_scored_positions_alone(decoder, rows):
    backbone = decoder()
    weights, _, prompt, batch = by_weights_and_attention(backbone, rows, "{soft:5}{text}{target}")
    tokens, scored = prompt + batch.inputs.ids.size, batch.target_at.size
    assert prompt >= 5
    assert scored < 0.6 * tokens
    assert total(weights) == weight_flops(backbone.config, tokens, scored)


def test_unrolled_layers_cost_what_the_loop_does(decoder, rows):
    backbone, template = decoder(), "{soft:5}{text}{target}"
    assert step_flops(unrolled(backbone), rows, template) == step_flops(backbone, rows, template)


def test_nothing_below_a_learned_prefix_asks_for_a_gradient(decoder, rows):
    backbone = decoder()
    weights, _, prompt, batch = by_weights_and_attention(backbone, rows, PREFIX)
    tokens = prompt + batch.inputs.ids.size
    queries, keys_values, _ = sizes_of(backbone.config)
    spared = 2 * tokens * (queries + keys_values)
    assert total(weights) == weight_flops(backbone.config, tokens, batch.target_at.size) - spared


def test_prompt_and_rows_share_each_reading_of_a_weight(decoder, rows):
    backbone = decoder()
    weights, *_ = by_weights_and_attention(backbone, rows, "{soft:5}{text}{target}")
    # Queries, keys, values, output, gate, up, down, and the head: once forward, once backward.
    assert sum(p.times for p in weights) == 2 * (7 * backbone.config.num_layers + 1)


def test_attention_leaves_out_most_of_what_no_token_may_see(decoder, rows):
    backbone = decoder(max_positions=1024)
    rows = [row | {"text": " ".join([row["text"]] * 60)[:1200]} for row in rows[:4]]
    _, attention, prompt, batch = by_weights_and_attention(backbone, rows, "{soft:5}{text}{target}", packing=False)
    (count, seq), config = batch.inputs.ids.shape, backbone.config
    assert seq >= 512
    # Logits and outputs, forward, recomputed, and backward for both sides of each.
    per_pair = 2 * config.num_heads * config.head_dim * (2 + 2 + 4)
    # Four blocks of queries, of which the nth sees n blocks of keys: 10 of 16 pairs of blocks.
    inner = count * (seq * seq * 10 // 16 + seq * prompt) + prompt * prompt
    last = batch.target_at.size * (seq + prompt)
    assert total(attention) == per_pair * ((config.num_layers - 1) * inner + last)


@pytest.mark.parametrize("attention", ["xla", "cudnn"])
def test_a_step_has_a_program_for_a_gpu(stories, rows, monkeypatch, attention):
    # What JAX asks of the machine on its way to a program with cuDNN in it.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda capability: True)
    backbone = random_backbone(stories.config, tokenizer=stories.tokenizer, dtype="bfloat16", attention=attention)
    forward, trainable, batch = prepared(backbone, rows, {"template": "{soft:4}{text}{target}", **GENERATION})
    optimizer = optax.adam(0.1)
    step = forward.step(optimizer)
    traced = step.jitted.trace(step.frozen, init_state(trainable, optimizer), batch)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    for name in ("fmhaScaleBiasSoftmax(", "fmhaScaleBiasSoftmaxBackward("):
        assert (f"__cudnn${name}" in program) == (attention == "cudnn")


def test_a_longer_prompt_costs_its_own_length_and_not_every_examples(decoder, rows):
    backbone, rows = decoder(), rows * 4
    short, long = (step_flops(backbone, rows, f"{{soft:{length}}}{{text}}{{target}}") for length in (4, 104))
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


def programs_of_an_epoch(experiment):
    mesh, data, optimizer = experiment.backbone.mesh, TrainingData.load(experiment), optax.sgd(1e-3)
    step = make_train_step(experiment.forward(data.hoisted), experiment.method, optimizer)
    state = jax.device_put(init_state(experiment.init_trainable(), optimizer), replicated(mesh))
    batches = data.train_batches(0)
    for _ in range(len(data.train.examples) // data.train.order.batch_size):
        state, _ = step(state, jax.device_put(next(batches), row_sharding(mesh)))
    return step.jitted.programs()


@pytest.mark.slow
def test_an_epoch_of_real_data_compiles_two_programs_at_most(masked):
    config = {
        "model": "m",
        "template": "{soft:2}{text}",
        "objective": {"type": "classifier"},
        "data": {"train": QUICKSTART, "label": "category"},
    }
    assert 1 <= programs_of_an_epoch(build(load_config(config), masked)) <= 2


def test_an_epoch_of_a_decoder_with_label_words_compiles_two_programs_at_most(decoder):
    backbone = decoder(hidden_size=16, num_heads=1, num_kv_heads=1, head_dim=16, mlp_size=16)
    examples = read_rows(in_package(QUICKSTART))[::8]
    rows = [{"text": row["text"], "label": int("card" in row["category"])} for row in examples]
    config = {"model": "m", "template": "{soft:2}{text} It was{target}", **SEVERAL_TOKENS, "data": {"train": rows}}
    assert 1 <= programs_of_an_epoch(build(load_config(config), backbone)) <= 2


def test_a_decoders_step_holds_no_weights(decoder, rows):
    backbone = decoder()
    case = {"template": "Read this. {soft:3}{text} It was{target}", **ONE_TOKEN}
    forward, trainable, batch = prepared(backbone, rows, case)
    optimizer = optax.adam(1e-3)
    step = forward.step(optimizer)
    program = step.jitted.lower(step.frozen, init_state(trainable, optimizer), batch).as_text()
    # Not even the keys and values of the text before the prompt; token ids there are.
    assert step.frozen["hard_prefix"] is not None
    assert max(map(len, re.findall(r"dense<[^>]*>", program))) < 200
    assert len(program) < 2**20
