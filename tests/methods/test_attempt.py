"""ATTEMPT: soft rows that are a mixture of prompts, by the words of an example's fields."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.methods import METHODS, fold
from jaxprompt.methods.base import FROZEN
from tests.methods.test_contract import config
from tests.methods.test_dept import WORDS, moved, packed
from tests.methods.test_idpg import CAUSAL, experiment_of, own_ids, plain

SOURCES = [{"type": "text", "text": text} for text in ("A good film or", "It was so bad")]
# At the paper's temperature, of which this is a fraction, a text of this size hardly matters.
METHOD = {"name": "attempt", "bottleneck": 3, "temperature": 2.0, "sources": SOURCES, "init": {"top_k": 50}}


def mixed(of, words):
    """The paper's formula for one example, whose words are `[tokens, embed]`, number by number."""
    x = words.max(axis=0) if len(words) else np.zeros(words.shape[1])
    down = of.down @ x
    h = of.up @ (down / (1 + np.exp(-down)))
    h = (h - h.mean()) / np.sqrt(h.var() + 1e-5) * of.scale + of.bias
    scores = np.array([prompt.max(axis=0) @ h for prompt in np.asarray(of.prompts)]) / of.temperature[0]
    weights = np.exp(scores - scores.max())
    return sum(weight * np.asarray(prompt) for weight, prompt in zip(weights / weights.sum(), of.prompts, strict=True))


@pytest.mark.parametrize(
    ("name", "template", "around"),
    [("stories", CAUSAL, ("Review: ", " It was")), ("masked", "{soft:4}It was {mask}. {text}", ("It was so. ", ""))],
)
def test_each_examples_rows_are_the_papers_mixture(request, rows, name, template, around):
    backbone, (before, behind) = request.getfixturevalue(name), around
    experiment = experiment_of(backbone, rows, template, METHOD, objective=WORDS)
    conditioning = fold(experiment.method, moved(experiment))
    read = [own_ids(backbone, before, row["text"], behind) for row in rows]
    want = plain(experiment, conditioning, rows, read, mixed)
    assert packed(experiment, conditioning) == pytest.approx(want, rel=1e-5)
    other = plain(experiment, conditioning, rows, read[1:] + read[:1], mixed)
    assert want != pytest.approx(other, rel=1e-5)  # the words weigh
    assert packed(experiment, dataclasses.replace(conditioning, generator=None)) != pytest.approx(want, rel=1e-3)


@pytest.mark.slow
def test_prompts_of_other_runs_are_mixed_and_stay_as_they_were(stories, rows, tmp_path, quiet):
    table = np.asarray(stories.word_embedding(stories.params))
    kept = [table[start : start + 4] for start in (270, 300)]
    for number, array in enumerate(kept):
        np.save(tmp_path / f"{number}.npy", array)
    sources = [{"type": "file", "path": str(tmp_path / f"{number}.npy")} for number in (0, 1)]
    tree = config("attempt", rows, run_dir=str(tmp_path / "run"))
    tree["method"] = {**METHOD, "sources": sources}
    result = jaxprompt.train(tree, backbone=stories, reporter=quiet)
    learned = result.prompt.generator
    np.testing.assert_array_equal(np.asarray(learned.prompts[:2]), np.stack(kept))
    np.testing.assert_array_equal(learned.prompts[2], result.prompt.soft)
    assert result.metrics["best_step"] == 6
    # As many numbers are learned as the formula has, the sources not among them.
    trainable = jax.eval_shape(experiment_of(stories, rows, CAUSAL, METHOD).init_trainable)
    count = sum(leaf.size for name, part in trainable.items() if name != FROZEN for leaf in jax.tree.leaves(part))
    assert count == 4 * 64 + 2 * 3 * 64 + 2 * 64
    assert METHODS["attempt"].reads_text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": []}, "method.sources"),
        ({"sources": [{"type": "file", "path": "nowhere.npy"}]}, "nowhere.npy"),
        ({"temperature": 0.0}, "method.temperature"),
    ],
)
def test_what_cannot_be_mixed_is_refused(stories, rows, changes, message):
    with pytest.raises(jaxprompt.InputError, match=message):
        experiment_of(stories, rows, CAUSAL, METHOD | changes).init_trainable()


def test_the_papers_temperature_is_the_default(stories, rows):
    tree = config("attempt", rows)
    assert load_config(tree).method.temperature is None
    method = experiment_of(stories, rows, CAUSAL, tree["method"]).method
    assert method.temperature == pytest.approx(64 * np.e)
