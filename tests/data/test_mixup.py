"""Two examples in one: their embeddings and their losses, by the same share."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxprompt.config import load_config
from jaxprompt.data.mixup import Mixup
from jaxprompt.data.packing import pack_separate
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.objectives import Vocabulary
from tests.conftest import STORIES

ROWS = [{"text": text, "label": label} for text, label in (("the dog ran", "a"), ("one cat sat", "b"), ("x", "a"))]


def config(**changes):
    tree = {
        "model": STORIES,
        "template": "{soft:2}{text}",
        "method": {"init": {"top_k": 100}},
        "objective": {"type": "classifier", "pool": "last"},
        "data": {"train": ROWS, "augment": {"mixup": 0.5}},
        "train": {"batch_size": 3, "steps": 2},
    }
    tree["data"] |= changes.pop("data", {})
    return load_config({**tree, **changes})


def test_examples_are_mixed_by_the_step_token_by_token_and_words_with_words(stories):
    experiment = build(config(), stories)
    examples = experiment.encode(ROWS)
    mixup = Mixup(0.5, stories.vocab_size, (1, 2), 0)
    for step in range(20):
        mixed = mixup(examples, step)
        again = mixup(examples, step)
        for old, new, same in zip(examples, mixed, again, strict=True):
            np.testing.assert_array_equal(new.mix_ids, same.mix_ids)
            assert new.ids.tolist() == old.ids.tolist() and new.answers["label"] == old.answers["label"]
            other = next(
                e
                for e in examples
                if all(a == b or not m for a, b, m in zip(new.mix_ids, e.ids, new.mix, strict=False))
            )
            assert len(np.flatnonzero(new.mix)) <= len(other.ids)
            # Soft rows and special tokens stay.
            assert not new.mix[(new.ids >= stories.vocab_size) | np.isin(new.ids, (1, 2))].any()
            assert set(new.mix[new.mix > 0].tolist()) <= {np.float32(new.answers["mix_share"]).item()}
    assert len({tuple(e.mix.tolist()) for step in range(20) for e in mixup(examples, step)}) > 20


@pytest.mark.parametrize("name", ["stories", "minilm"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_inputs_and_losses_are_those_of_the_formula(request, name, share):
    backbone = request.getfixturevalue(name)
    experiment = build(config(model="m", template="{text}", method={"name": "none"}), backbone)
    one, other = experiment.encode(ROWS[:2])
    length = min(len(one.ids), len(other.ids))
    one, other = (
        dataclasses.replace(e, pool_at=length - 1 if backbone.causal else 0) if backbone.causal else e
        for e in (one, other)
    )
    mixed = dataclasses.replace(
        one,
        mix_ids=np.concatenate([other.ids[:length], one.ids[length:]]).astype(np.int32),
        mix=np.concatenate([np.full(length, share), np.zeros(len(one.ids) - length)]).astype(np.float32),
        answers={"label": 0, "mix_label": 1, "mix_share": share},
    )
    head = {"weight": jax.random.normal(jax.random.key(0), (2, backbone.hidden_size)), "bias": np.zeros(2, np.float32)}
    batch = pack_separate([mixed])

    def scores(batch):
        hidden = backbone.apply(backbone.params, batch.inputs, at=experiment.objective.at(batch))
        return experiment.objective.score(Vocabulary(backbone, backbone.params), head, None, hidden, batch)

    found = scores(batch)
    logits = np.asarray(found.outputs["logits"])[0, 0]
    losses = -np.asarray(jax.nn.log_softmax(logits))
    assert float(found.loss) == pytest.approx((1 - share) * losses[0] + share * losses[1], rel=1e-5)
    assert float(found.count) == pytest.approx(1.0)
    # The same vectors as rows of a soft prompt.
    table = [np.asarray(backbone.embed(backbone.params, np.asarray(ids)[None])[0]) for ids in (one.ids, mixed.mix_ids)]
    soft = table[0] + mixed.mix[:, None] * (table[1] - table[0])
    rows = dataclasses.replace(one, ids=backbone.vocab_size + np.arange(len(one.ids), dtype=np.int32))
    inputs = pack_separate([rows]).inputs
    hidden = backbone.apply(backbone.params, inputs, soft=soft)
    mixed_hidden = backbone.apply(backbone.params, batch.inputs)
    used = np.asarray(inputs.segments) > 0
    np.testing.assert_allclose(np.asarray(mixed_hidden)[used], np.asarray(hidden)[used], atol=2e-5)


def test_a_prompt_computed_once_changes_nothing(stories):
    losses = {}
    for share in (True, False):
        experiment = build(config(data={"share_prefix": share}), stories)
        data = TrainingData.load(experiment)
        assert bool(data.hoisted) == share
        forward = experiment.forward(data.hoisted)
        trainable = experiment.init_trainable()
        head = {"weight": jax.random.normal(jax.random.key(0), (2, 64)), "bias": np.zeros(2, np.float32)}
        frozen, conditioning = forward.frozen(), experiment.method.apply(trainable)
        batches = list(itertools.islice(data.train_batches(0), 2))
        assert all(batch.inputs.mix.any() for batch in batches)
        scores = jax.jit(forward)
        losses[share] = [float(scores(conditioning, head, frozen, batch).loss) for batch in batches]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-5)


def test_a_run_learns_so_and_is_evaluated_without(stories, tmp_path, quiet):
    import jaxprompt

    result = jaxprompt.train(
        config(data={"validation": ROWS}, run_dir=str(tmp_path / "run")), backbone=stories, reporter=quiet
    )
    assert result.metrics["examples"] == 3


def test_what_is_scored_inside_a_text_is_not_mixed(stories):
    given = config(template="{soft:2}{text} {target}", objective={"type": "verbalizer", "labels": {"a": "x", "b": "y"}})
    with pytest.raises(InputError, match=r"^data\.augment\.mixup mixes whole texts, not what verbalizer scores"):
        TrainingData.load(build(given, stories))
