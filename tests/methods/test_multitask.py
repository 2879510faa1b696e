"""Multitask prompt tuning: one prompt for all tasks, times a thin product of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.errors import InputError
from jaxprompt.experiment.several import build_several
from jaxprompt.methods.per_task import SHARED
from jaxprompt.prompts import load_prompt
from tests.conftest import STORIES

TEMPLATES = {"a": "{soft:3} {text} {target}", "b": "Say {soft:3} {text} {target}"}
METHOD = {"name": "multitask", "rank": 2, "init": {"top_k": 50}}


def several(stories, rows, **templates):
    tasks = {name: {"template": template} for name, template in templates.items()}
    config = load_config({"model": STORIES, "tasks": tasks, "method": METHOD, "data": {"train": rows}})
    return build_several(config, stories, None, None)


def test_tasks_share_the_prompt_and_each_has_its_own_factors(stories, rows):
    experiment = several(stories, rows, **TEMPLATES)
    trainable = experiment.init_trainable()
    assert set(trainable["prompt"]) == {SHARED} and set(trainable["task"]) == {"a", "b"}
    # Every prompt starts as the shared one.
    rows_of = trainable["prompt"][SHARED]["soft"]
    np.testing.assert_allclose(experiment.method.apply(trainable).soft, jnp.concatenate([rows_of, rows_of]), rtol=1e-6)

    trainable = jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(x.size), x.shape), trainable)
    soft = experiment.method.apply(trainable).soft
    for task, found in (("a", soft[:3]), ("b", soft[3:])):
        # Equation 1 of the paper, number by number: P* o (u v^T), summed over the ranks.
        u, v = (np.asarray(trainable["task"][task][name], np.float64) for name in "uv")
        shared = np.asarray(trainable["prompt"][SHARED]["soft"], np.float64)
        wanted = np.zeros_like(shared)
        for row in range(3):
            for column in range(shared.shape[1]):
                wanted[row, column] = shared[row, column] * sum(u[row, r] * v[r, column] for r in range(2))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_new_task_starts_from_what_tasks_share(stories, rows, tmp_path, quiet):
    tasks = {name: {"template": template} for name, template in TEMPLATES.items()}
    tree = {"model": STORIES, "method": METHOD, "data": {"train": rows}, "train": {"steps": 3, "batch_size": 8}}
    jaxprompt.train(tree | {"tasks": tasks, "run_dir": str(tmp_path / "run")}, backbone=stories, reporter=quiet)
    shared, own = (load_prompt(tmp_path / "run" / folder) for folder in ("shared", "tasks/a"))
    for array in (shared.soft, own.soft):
        assert array.shape == (3, stories.hidden_size)
    # Each task's prompt is the shared one, times what the task learned itself.
    assert np.linalg.matrix_rank(own.soft / shared.soft, tol=1e-4) <= METHOD["rank"]
    assert np.abs(own.soft - shared.soft).max() > 1e-4
    new = tree | {"template": "Now {soft:3} {text} {target}", "train": {"steps": 0}}
    new["method"] = METHOD | {"init": {"type": "file", "path": str(tmp_path / "run" / "shared")}}
    started = jaxprompt.train(new, run_dir=str(tmp_path / "new"), backbone=stories, reporter=quiet).prompt
    np.testing.assert_allclose(started.soft, shared.soft, rtol=1e-6)


def test_templates_of_other_lengths_share_nothing(stories, rows):
    experiment = several(stories, rows, a="{soft:3} {text} {target}", b="{soft:4} {text} {target}")
    with pytest.raises(InputError, match=r"tasks.b: method multitask shares its prompt, and here it is \(4, 64\)"):
        experiment.trainable_shapes()
