"""Several methods at once are each of them, and do not get in each other's way."""

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.inference.predict import predict_run
from tests.methods.test_contract import config


def tree(rows, *parts, template="Read this. {soft:4}Review: {text} It was {target}", **sections):
    parts = [{"name": part} if isinstance(part, str) else part for part in parts]
    return {**config("soft", rows, **sections), "template": template, "method": {"name": "together", "parts": parts}}


def test_each_part_gives_what_it_gives_alone(stories, rows):
    experiment = build(load_config(tree(rows, "soft", "prefix", "lora", "ia3")), stories)
    trainable = experiment.init_trainable()
    assert {group: set(parts) for group, parts in trainable.items()} == {
        "prompt": {"soft", "prefix"},
        "deltas": {"lora", "ia3"},
    }
    found = experiment.method.apply(trainable)
    for name, part in experiment.method.parts.items():
        alone = part.apply({group: parts[name] for group, parts in trainable.items() if name in parts})
        for field in ("soft", "prefix"):
            if getattr(alone, field) is not None:
                jax.tree.map(np.testing.assert_array_equal, getattr(alone, field), getattr(found, field))
        for path, delta in (alone.deltas or {}).items():
            assert all(
                getattr(delta, kind) is None or (getattr(delta, kind) == getattr(found.deltas[path], kind)).all()
                for kind in ("a", "b", "factor", "in_factor")
            )
    assert experiment.method.positions == 16
    value = found.deltas["layers/attention/v/weight"]
    assert value.a is not None and value.factor is not None  # LoRA's and (IA)3's, on one weight


def test_each_group_has_a_rate_of_its_own(stories, rows, tmp_path, quiet):
    given = tree(rows, "soft", "lora", run_dir=str(tmp_path / "run"), train={"steps": 2, "batch_size": 4})
    given["optimizer"] = {"name": "sgd", "learning_rate": 0.5, "rates": {"deltas": 0.0}}
    experiment = build(load_config(given), stories)
    start = experiment.prompt(experiment.init_trainable())
    prompt = jaxprompt.train(given, backbone=stories, reporter=quiet).prompt
    assert np.abs(prompt.soft - start.soft).max() > 0
    jax.tree.map(np.testing.assert_array_equal, prompt.deltas, start.deltas)
    # What is kept is used by all that uses prompts.
    again = jaxprompt.load_prompt(tmp_path / "run")
    again.check(stories)
    assert again.info["method"] == "together"
    (answer,) = predict_run(tmp_path / "run", ["a dog"], stories)
    assert answer["input"] == "a dog" and answer["prediction"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["soft", "p_tuning"], "method.parts has soft and p_tuning, which would fill the same soft slots: keep one"),
        (["soft", "lora", "lora"], "method.parts has 'lora' twice: leave one out"),
        (["soft", "prefix", "projected_prefix"], "has prefix and projected_prefix, which both give a prefix: keep one"),
        (["soft", "norms", "full"], "has norms and full, which both change final_norm/weight by shift: keep one"),
        (["soft"], "method.parts"),
        (["soft", "lorra"], "method.parts"),
        (["soft", {"name": "lora", "rnk": 3}], "rnk"),
        (["soft", {"name": "lora", "targets": ["x"]}], "method.targets has 'x', which this model has not"),
        (["prefix", "lora"], "has soft tokens but method.name is 'together'"),
    ],
)
def test_what_makes_no_sense_together_is_refused(stories, rows, parts, message):
    with pytest.raises(InputError) as error:
        build(load_config(tree(rows, *parts)), stories)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_methods_that_fill_no_slots_need_none(stories, rows):
    given = tree(rows, "prefix", "lora", template="Review: {text} It was {target}")
    assert build(load_config(given), stories).method.positions == 16
    task = {"model": "gpt2", "task": "glue/sst2", "form": "causal", "method": given["method"]}
    assert "{soft" not in load_config(task).template
    task["method"] = {"name": "together", "parts": [{"name": "soft"}, {"name": "lora"}]}
    assert load_config(task).template.startswith("{soft:20}")
