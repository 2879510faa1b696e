"""Prompts of several owners in one batch."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxprompt.config import load_config
from jaxprompt.data.order import Order
from jaxprompt.data.packing import pack, plan_rows
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import hoist
from jaxprompt.models.adapted import Adapted
from jaxprompt.models.layers import linear
from jaxprompt.objectives.several import Several
from jaxprompt.scoring.forward import Forward
from jaxprompt.scoring.owners import joined, of_owner
from jaxprompt.types import Conditioning, Delta, Gated
from tests.away import away_from
from tests.conftest import STORIES

TASKS = {
    "soft": ("Read this. {soft:4}Review: {text} It was {target}", {"name": "soft", "init": {"top_k": 50}}),
    "prefix": ("Tell. {text}, so {target}", {"name": "prefix", "length": 5, "init": {"top_k": 50}}),
}


def test_each_example_is_scored_under_the_prompt_of_its_owner(stories, rows):
    names, parts, hoisted, examples, wanted, before = list(TASKS), [], [], [], {}, 0
    for owner, (template, method) in enumerate(TASKS.values()):
        part = build(load_config({"model": STORIES, "template": template, "method": method}), stories)
        parts.append((part, part.method.apply(away_from(part.init_trainable()))))
        ids, (own,) = hoist(part, [part.encode(rows)])
        batch = pack(own, plan_rows(own, Order(len(own), len(own), shuffle=False)))
        forward = part.forward(ids)
        scores = jax.jit(forward)(parts[-1][1], {}, forward.frozen(), batch)
        for slot in np.argwhere(batch.index >= 0):
            at = tuple(slot)
            wanted[owner, int(batch.index[at])] = float(scores.outputs["nll"][at])
        hoisted.append(tuple(i + before if i >= stories.vocab_size else i for i in ids))
        answers = [{**example.answers, "task": owner} for example in own]
        examples += [
            dataclasses.replace(of_owner(example, owner, before, stories.vocab_size), answers=answer)
            for example, answer in zip(own, answers, strict=True)
        ]
        before += part.encoder.template.soft_length

    # Both in one batch, rows of either kind, and of both.
    batch = pack(examples, plan_rows(examples, Order(len(examples), len(examples), shuffle=False)))
    owners = np.where(batch.inputs.segments > 0, batch.inputs.owners, -1)
    assert any(set(row) >= {0, 1} for row in owners.tolist())
    objective = Several({name: part.objective for name, (part, _) in zip(names, parts, strict=True)})
    forward = Forward(stories, objective, tuple(hoisted))
    conditioning = joined([conditioning for _, conditioning in parts], names)
    scores = jax.jit(forward)(conditioning, {}, forward.frozen(), batch)
    for slot in np.argwhere(batch.index >= 0):
        owner, number = divmod(int(batch.index[tuple(slot)]), len(rows))
        assert float(scores.outputs["0/nll"][tuple(slot)]) == pytest.approx(wanted[owner, number], rel=1e-5)


@pytest.mark.parametrize(
    ("of_b", "says"),
    [
        ({"deltas": {"final_norm/weight": Delta(shift=np.ones(4))}}, "adds to 'final_norm/weight', which a batch has for all"),
        ({"gated": {"layers/attention": Gated(np.ones((1, 2, 4)), np.ones((1, 2)))}}, "holds gated, which a batch has for all"),
        ({"soft": np.ones((2, 4)), "soft_layer": 1}, "holds soft_layer, which a batch has for all"),
    ],
)  # fmt: skip
def test_what_a_batch_has_only_once_is_refused_by_its_owners_name(of_b, says):
    with pytest.raises(InputError, match=f"the prompt of 'b' {says}"):
        joined([Conditioning(soft=np.ones((2, 4))), Conditioning(**of_b)], ["a", "b"])


def test_a_product_changes_for_each_token_as_its_owner_says():
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 6), (4, 6)))
    own = [
        Delta(a=rng.normal(size=(1, 3, 6)), b=rng.normal(size=(1, 4, 3)), factor=rng.normal(size=(1, 4))),
        None,
        Delta(a=rng.normal(size=(1, 1, 6)), b=rng.normal(size=(1, 4, 1)), in_factor=rng.normal(size=(1, 6))),
    ]
    deltas = joined([Conditioning(deltas=None if one is None else {"q": one}) for one in own], "abc").deltas
    owners = rng.integers(0, 3, (2, 5))

    def product(delta, owners=None):
        of_layer = None if delta is None else jax.tree.map(lambda leaf: jax.numpy.asarray(leaf[0], "float32"), delta)
        return linear(x, weight if delta is None else Adapted(weight, of_layer), owners=owners)

    found, alone = product(deltas["q"], owners), np.stack([product(one) for one in own])
    np.testing.assert_allclose(
        found, np.take_along_axis(alone, owners[None, ..., None], axis=0)[0], rtol=1e-5, atol=1e-5
    )


def test_what_several_tasks_ask_of_the_vocabulary_is_computed_once(stories, rows):
    words = {"type": "verbalizer", "labels": {"0": ["bad", "so sad"], "1": "good"}}
    others = {"type": "verbalizer", "labels": {"0": ["dull", "so bad"], "1": "happy"}}

    def products(*objectives):
        """How many products with the vocabulary a mixed batch of so many tasks takes."""
        parts = {}
        for number, objective in enumerate(objectives):
            config = load_config({"model": STORIES, "template": "{soft:2} {text} {target}", "objective": objective})
            parts[str(number)] = build(config, stories)
        own = [
            [dataclasses.replace(of_owner(example, owner, 2 * owner, stories.vocab_size), answers={"task": owner})
             for example in part.encode(rows)]
            for owner, part in enumerate(parts.values())
        ]  # fmt: skip
        examples = [example for part in own for example in part]
        objective = Several({name: part.objective for name, part in parts.items()})
        plan = plan_rows(examples, Order(len(examples), len(examples), shuffle=False))
        batch = pack(examples, plan, num_words=objective.num_words)
        batch = batch.replace(
            answers=batch.answers | {f"{name}/{key}": batch.index for name in parts for key in ("label", "bytes")}
        )
        forward = Forward(stories, objective, ((),) * len(parts))
        conditioning = joined([part.method.apply(part.init_trainable()) for part in parts.values()], list(parts))
        text = jax.jit(forward).lower(conditioning, {}, forward.frozen(), batch).as_text()
        return sum("dot_general" in line and str(stories.vocab_size) in line for line in text.splitlines())

    assert products({"type": "generation"}, words, others) == products({"type": "generation"}, {"type": "generation"})
