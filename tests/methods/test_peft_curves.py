"""Twenty steps of training follow PEFT's, or torch's alone, from the same start on the same rows.

`tests/golden_reference/curves.py` wrote them.
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors import safe_open

import jaxprompt
from jaxprompt.data.order import Order
from jaxprompt.data.packing import pack, plan_rows
from jaxprompt.methods import Start
from jaxprompt.methods.bitfit import BitFit
from jaxprompt.methods.cpt import Context, Cpt, CptOptions
from jaxprompt.methods.full import Full
from jaxprompt.methods.gated_prefix import GatedPrefix, GatedPrefixOptions
from jaxprompt.methods.ia3 import Ia3
from jaxprompt.methods.lora import Lora, LoraOptions
from jaxprompt.methods.multitask import Multitask
from jaxprompt.methods.norms import Norms
from jaxprompt.methods.p_tuning import PTuning
from jaxprompt.methods.per_task import SHARED, PerTask
from jaxprompt.methods.prefix import PrefixTuning, prefix_positions
from jaxprompt.methods.projected_prefix import ProjectedPrefix
from jaxprompt.methods.soft import SoftPrompt
from jaxprompt.methods.starts import Init
from jaxprompt.objectives.classifier import Classifier
from jaxprompt.objectives.generation import Generation
from jaxprompt.scoring.forward import Forward
from jaxprompt.text.encoded import Encoded, constant, counting, int32
from jaxprompt.text.hoisting import drop_prefix
from jaxprompt.text.labels import LabelSet
from jaxprompt.training.step import init_state, make_train_step
from jaxprompt.types import Conditioning

GOLDEN = Path(__file__).parents[1] / "golden"
T5_ATTENTION = {"SelfAttention": "attention", "EncDecAttention": "cross"}
# What PEFT has nothing to do with: the model's own parameters, of which no start is stored.
OWN = {method.name: method for method in (Full, BitFit, Norms)}
NAMES = sorted(path.name.removesuffix(".safetensors") for path in (GOLDEN / "curves").glob("*.safetensors"))
# What the methods have least in common, each on one model; the rest takes its time.
FAST = ("llama-untied.soft", "llama-untied.prefix", "llama-untied.lora", "stories260K.gated_prefix", "gpt2.bitfit")
CURVES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NAMES]


def classified(soft, ids, label):
    """An example whose first token of text a head reads."""
    length = len(soft) + len(ids)
    nothing = int32([])
    return Encoded(
        ids=int32([*soft, *ids]),
        segments=constant(1, length),
        positions=counting(length),
        types=constant(0, length),
        branches=constant(0, length),
        target_at=nothing,
        target_ids=nothing,
        target_group=nothing,
        answers={"label": label},
        pool_at=len(soft),
    )


def encoded(ids, targets, source=None):
    """An example whose last tokens are scored, the last of them not among its ids."""
    length, count = len(ids) - 1, len(targets)
    return Encoded(
        ids=int32(ids[:-1]),
        segments=constant(1, length),
        positions=counting(length),
        types=constant(0, length),
        branches=constant(0, length),
        target_at=int32(np.arange(length - count, length)),
        target_ids=int32(targets),
        target_group=constant(0, count),
        answers={"bytes": 1},
        source=None if source is None else int32(source),
    )


def dense(start, name):
    return {"weight": start[f"{name}.weight"], "bias": start[f"{name}.bias"]}


def one_lstm(start, layer):
    names = {"input": "weight_ih", "state": "weight_hh", "input_bias": "bias_ih", "state_bias": "bias_hh"}
    ways = {"forward": f"l{layer}", "backward": f"l{layer}_reverse"}
    return {
        way: {name: start[f"lstm_head.{theirs}_{of}"] for name, theirs in names.items()} for way, of in ways.items()
    }


# PEFT's modules under our names.
MODULES = {
    **{"c_fc": "mlp/up", "q_proj": "attention/q", "k_proj": "attention/k", "v_proj": "attention/v"},
    **{"down_proj": "mlp/down", "wo": "mlp/down", "query": "attention/q", "value": "attention/v"},
    **{f"{theirs}.{name}": f"{ours}/{name}" for name in "qkv" for theirs, ours in T5_ATTENTION.items()},
}
SIDES = re.compile(r"(?P<side>encoder|decoder)?.*?\.(?:h|layers|block|layer)\.(?P<layer>\d+)\.")
PARTS = {"lora_A.default.weight": "a", "lora_B.default.weight": "b", "ia3_l.default": "factor"}


def deltas_of(start):
    """PEFT's changes of weights by our paths, the layers stacked."""
    found = {}
    for name, value in start.items():
        side, layer = SIDES.search(name.removeprefix("base_model.model.")).group("side", "layer")
        module = next(ours for theirs, ours in MODULES.items() if f".{theirs}." in name)
        part = next(ours for theirs, ours in PARTS.items() if name.endswith(theirs))
        if part == "factor" and module == "mlp/down":
            part = "in_factor"
        path = "/".join([*([side] if side else []), "layers", module, "weight"])
        array = value.reshape(-1) if part.endswith("factor") else value
        found.setdefault(path, {}).setdefault(part, {})[int(layer)] = array
    return {
        path: {part: np.stack([of[layer] for layer in range(len(of))]) for part, of in parts.items()}
        for path, parts in found.items()
    }


def end_to_end(found, _):
    """The soft rows of several tasks."""
    return Conditioning(soft=jnp.concatenate([one.soft for one in found]))


def method_and_start(name, backbone, case, start):
    """Ours, and PEFT's initial values under our names."""
    if name in OWN:
        method = OWN[name].build(OWN[name].Options(), 0, backbone)
        return method, method.init(jax.random.key(0), Start(backbone))
    if name in ("lora", "ia3"):
        deltas = deltas_of(start)
        targets = sorted({path.split("/")[-2] for path in deltas})
        if name == "lora":
            options = LoraOptions(rank=3, alpha=6, targets=targets, rank_stabilized=backbone.seq2seq)
            method = Lora.build(options, 0, backbone)
        else:
            method = Ia3.build(Ia3.Options(), 0, backbone)
        shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), Start(backbone)))
        assert jax.tree.map(np.shape, deltas) == jax.tree.map(lambda leaf: leaf.shape, shapes["deltas"])
        return method, {"deltas": deltas}
    if name == "cpt":
        read = tuple(not (template or label) for template, label in zip(case["template"], case["labels"], strict=True))
        bounds = {f"{kind}_bound": bound for kind, bound in case["bounds"].items()}
        options = CptOptions(decay=case["decay"], **bounds)
        context = Context(tuple(start["ids"].tolist()), read, tuple(case["labels"]))
        method = Cpt.build(options, case["length"], backbone).with_context(context)
        return method, method.init(jax.random.key(0), Start(backbone))
    if name == "gated_prefix":
        rows, gates = ([start[key] for key in sorted(start) if key.endswith(part)] for part in ("prompt", "gate"))
        options = GatedPrefixOptions(length=case["length"], layers=len(rows), gate="layer")
        learned = {"rows": np.concatenate(rows), "gate": np.concatenate(gates)}
        return GatedPrefix.build(options, 0, backbone), {"prompt": {"layers/attention": learned}}
    embedding, length, hidden = start["embedding.weight"], case["length"], case["hidden"]
    layers, heads, dim = backbone.prefix_shape
    if name == "multitask":
        columns, rows = start["prefix_task_cols"], start["prefix_task_rows"]
        tasks = {str(task): {"u": u, "v": v} for task, (u, v) in enumerate(zip(columns, rows, strict=True))}
        method = Multitask(length, backbone.soft_size, rows.shape[1], Init())
        method = PerTask(dict.fromkeys(tasks, method), dict.fromkeys(tasks, ()), end_to_end)
        return method, {"prompt": {SHARED: {"soft": embedding}}, "task": tasks}
    if name == "soft":
        return SoftPrompt(len(embedding), Init()), {"prompt": {"soft": embedding}}
    if name == "p_tuning_mlp":
        network = {ours: dense(start, f"mlp_head.{at}") for ours, at in (("first", 0), ("second", 2), ("third", 4))}
    if name == "p_tuning_lstm":
        network = {"lstm": {"first": one_lstm(start, 0), "second": one_lstm(start, 1)}}
        network |= {"first": dense(start, "mlp_head.0"), "second": dense(start, "mlp_head.2")}
    if name.startswith("p_tuning"):
        method = PTuning(len(embedding), backbone.soft_size, hidden, name.removeprefix("p_tuning_"))
        return method, {"prompt": {"embedding": embedding}, "encoder": network}
    if name == "projected_prefix":
        network = {"first": dense(start, "transform.0"), "second": dense(start, "transform.2")}
        method = ProjectedPrefix(length, length, hidden, {"": backbone.prefix_shape})
        return method, {"prompt": {"embedding": embedding}, "encoder": network}
    rows = embedding.reshape(length, layers, 2, heads, dim)
    keys, values = rows.transpose(2, 1, 0, 3, 4)
    return PrefixTuning(length, prefix_positions(length, backbone), Init()), {
        "prompt": {"keys": keys, "values": values}
    }


@pytest.mark.parametrize("curve", CURVES)
def test_the_loss_is_that_of_peft_at_every_step(curve):
    model, _, name = curve.partition(".")
    with safe_open(GOLDEN / "curves" / f"{curve}.safetensors", framework="numpy") as file:
        case = json.loads(file.metadata()["case"])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    prefix = "start.prompt_encoder.default."
    start = {key.removeprefix(prefix).removeprefix("start."): value for key, value in arrays.items() if key != "losses"}
    head = {key.rpartition(".")[2]: start.pop(key) for key in list(start) if "classifier" in key}
    backbone = jaxprompt.load_backbone(GOLDEN / model)
    method, trainable = method_and_start(name, backbone, case, start)
    objective = Generation("target")
    if head:
        trainable = {**trainable, "head": head}
        labels = LabelSet(tuple(f"class {number}" for number in range(len(head["bias"]))))
        objective = Classifier(column="label", labels=labels, words=(), how="first")
    soft = backbone.vocab_size + np.arange(case["length"]) if method.fills_slots else np.zeros(0, int)
    # Of several tasks, which take turns, rows of the soft table follow each other.
    tasks = len(method.parts) if name == "multitask" else 0
    softs = [backbone.vocab_size + task * case["length"] + np.arange(case["length"]) for task in range(tasks)] or [soft]
    softs = [softs[row % len(softs)] for row in range(len(case["text"]))]
    if backbone.seq2seq:
        begin, parts = backbone.config.start_id, zip(softs, case["text"], case["target"], strict=True)
        examples = [encoded([begin, *target], target, [*soft, *text]) for soft, text, target in parts]
    elif head:
        examples = [classified(soft, text, label) for text, label in zip(case["text"], case["classes"], strict=True)]
    else:
        parts = zip(softs, case["text"], strict=True)
        examples = [encoded([*soft, *text], text[case["read"] :]) for soft, text in parts]
    # As a run does it: the prompt once, the rows packed.
    hoisted = tuple(soft.tolist()) if backbone.causal else ()
    examples = [drop_prefix(example, len(hoisted)) for example in examples]
    batch = pack(examples, plan_rows(examples, Order(len(examples), len(examples), shuffle=False)))
    optimizer = optax.adamw(case["rate"], eps=case["epsilon"], weight_decay=0.0)
    step = make_train_step(Forward(backbone, objective, hoisted), method, optimizer)
    state, losses = init_state(trainable, optimizer), []
    for _ in arrays["losses"]:
        state, metrics = step(state, jax.device_put(batch))
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, arrays["losses"], atol=1e-4)
