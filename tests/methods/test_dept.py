"""DePT: a change by position of the input text, and of nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.data.packing import pack_separate
from jaxprompt.experiment.build import build
from jaxprompt.experiment.data import TrainingData
from jaxprompt.methods import fold
from jaxprompt.models.numbered import numbered
from jaxprompt.scoring.writing import Contexts, contexts_of, search_of, write
from jaxprompt.text.encoded import int32
from jaxprompt.types import Conditioning, Inputs
from tests.methods.test_contract import config

# Some texts are longer than this.
METHOD = {"name": "dept", "rank": 3, "text_length": 7, "init": {"top_k": 50}}
WORDS = {"type": "verbalizer", "labels": {0: ["bad", "so sad"], 1: ["good"]}}
CAUSAL = "Read this. {soft:4}Review: {text} It was {target}"


def experiment_of(backbone, rows, template, **sections):
    return build(load_config(config("dept", rows, **sections) | {"template": template, "method": METHOD}), backbone)


def moved(experiment):
    """Parameters away from their start, at which there is no change."""
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), experiment.init_trainable())


def as_soft(backbone, conditioning, texts):
    """Each text's ids with its words as soft rows that are what they are changed to, and the table of these."""
    table, found = [np.asarray(conditioning.soft)], []
    words, change = np.asarray(backbone.word_embedding(backbone.params)), np.asarray(conditioning.change)
    size = len(table[0])
    for text in texts:
        ids, number = [], 0
        for token in map(int, text):
            if token < backbone.vocab_size:
                row = words[token] + (change[number] if number < len(change) else 0.0)
                table.append(row[None])
                token, number, size = backbone.vocab_size + size, number + 1, size + 1
            ids.append(token)
        found.append(ids)
    return found, Conditioning(soft=jnp.asarray(np.concatenate(table)))


def plain(experiment, conditioning, examples):
    """The loss of examples each in a row of its own, none of whose text is made of words."""
    backbone = experiment.backbone
    if backbone.seq2seq:
        texts, table = as_soft(backbone, conditioning, [example.source for example in examples])
        examples = [dataclasses.replace(e, source=int32(ids)) for e, ids in zip(examples, texts, strict=True)]
    elif backbone.causal:
        ends = [example.target_at.min() + 1 for example in examples]
        texts, table = as_soft(backbone, conditioning, [e.ids[:end] for e, end in zip(examples, ends, strict=True)])
        examples = [
            dataclasses.replace(e, ids=int32([*ids, *e.ids[end:]]))
            for e, ids, end in zip(examples, texts, ends, strict=True)
        ]
    else:  # with a segment for the words of each length
        parts = [(number, e.ids[e.segments == n]) for number, e in enumerate(examples) for n in np.unique(e.segments)]
        texts, table = as_soft(backbone, conditioning, [ids for _, ids in parts])
        whole = [[] for _ in examples]
        for (number, _), ids in zip(parts, texts, strict=True):
            whole[number] += ids
        examples = [dataclasses.replace(e, ids=int32(ids)) for e, ids in zip(examples, whole, strict=True)]
    forward = experiment.forward(())
    batch = pack_separate(examples, num_words=experiment.objective.num_words)
    return float(jax.jit(forward)(table, {}, forward.frozen(), batch).loss)


def packed(experiment, conditioning):
    """The loss of the training rows as a run has it."""
    data = TrainingData.load(experiment)
    forward, total = experiment.forward(data.hoisted), 0.0
    for batch in data.train.eval_batches():
        total += float(jax.jit(forward)(conditioning, {}, forward.frozen(), batch).loss)
    return total


@pytest.mark.parametrize("objective", [{"type": "generation"}, WORDS], ids=["generation", "words"])
def test_a_decoders_text_is_changed_up_to_the_target(stories, rows, objective):
    experiment = experiment_of(stories, rows, CAUSAL, objective=objective)
    conditioning = fold(experiment.method, moved(experiment))
    want = plain(experiment, conditioning, experiment.encode(rows))
    assert packed(experiment, conditioning) == pytest.approx(want, rel=1e-5)
    unchanged = packed(experiment, conditioning.replace(change=0 * conditioning.change))
    assert unchanged != pytest.approx(want, rel=1e-3)


@pytest.mark.slow
def test_an_encoder_is_changed_everywhere(masked, rows):
    template = "{soft:3}It was {mask}. {text} All in all."
    experiment = experiment_of(masked, rows, template, objective=WORDS)
    conditioning = fold(experiment.method, moved(experiment))
    want = plain(experiment, conditioning, experiment.encode(rows))
    assert packed(experiment, conditioning) == pytest.approx(want, rel=1e-5)
    ids = np.array([[101, 2009, 2001, 102, 0], [101, 2009, 2001, 2204, 102]])
    mask = ids > 0
    (first, second), table = as_soft(masked, conditioning, [ids[0, :4], ids[1]])
    found = masked.hidden(ids, mask, conditioning)
    for text, got in ((first, found[0, :4]), (second, found[1])):
        alone = [masked.vocab_size + np.arange(3), text]
        inputs = Inputs(
            *(jnp.asarray(x)[None] for x in (np.concatenate(alone), range(3 + len(text)), [1] * (3 + len(text))))
        )
        np.testing.assert_allclose(got, masked.apply(masked.params, inputs, soft=table.soft)[0, 3:], atol=1e-4)


@pytest.mark.slow
def test_of_an_encoder_decoder_the_encoders_text_is_changed(seq2seq, rows):
    experiment = experiment_of(seq2seq, rows, "Review: {soft:4}{text} {target}")
    conditioning = fold(experiment.method, moved(experiment))
    want = plain(experiment, conditioning, experiment.encode(rows))
    assert packed(experiment, conditioning) == pytest.approx(want, rel=1e-5)
    trunks = [experiment.encoder.context(row) for row in rows[:3]]
    texts, table = as_soft(seq2seq, conditioning, [trunk.source for trunk in trunks])
    contexts = contexts_of(trunks, experiment.encoder)
    search, contexts = search_of(seq2seq, contexts, experiment.encoder, None, max_new_tokens=5)
    found = write(seq2seq, search, contexts, conditioning, 2)
    assert found == write(seq2seq, search, dataclasses.replace(contexts, sources=texts), table, 2)
    assert found != write(seq2seq, search, contexts, Conditioning(soft=conditioning.soft), 2)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_what_is_written_is_not_changed(stories, rows, num_beams):
    experiment = experiment_of(stories, rows, CAUSAL)
    conditioning = fold(experiment.method, moved(experiment))
    trunks = [experiment.encoder.context(row) for row in rows[:3]]
    contexts = contexts_of(trunks, experiment.encoder)
    assert len(contexts.shared) > 4  # text among them
    options = {"max_new_tokens": 8, "num_beams": num_beams}
    search, contexts = search_of(stories, contexts, experiment.encoder, None, **options)
    found = write(stories, search, contexts, conditioning, 2)
    texts, table = as_soft(stories, conditioning, [trunk.ids for trunk in trunks])
    # A token decoded behind soft rows alone has no space before it.
    assert [text.strip() for text in found] == [
        text.strip() for text in write(stories, search, Contexts([], texts), table, 2)
    ]
    assert found != write(stories, search, contexts, Conditioning(soft=conditioning.soft), 2)


def test_a_decoders_logits_are_refused_where_the_text_ends_unsaid(stories, rows):
    experiment = experiment_of(stories, rows, "{soft:4}Review: {text} It was {target}")
    prompt = experiment.prompt(moved(experiment))
    with pytest.raises(jaxprompt.InputError, match=r"changes the text before \{target\} alone"):
        stories.logits([[1, 403, 407]], prompt=prompt)
    # Of a prompt without a template all of it is text.
    ids = [[1, 403, 407]]
    (text,), table = as_soft(stories, prompt.conditioning, ids)
    inputs = Inputs(*(jnp.asarray(x)[None] for x in ([512, 513, 514, 515, *text], range(7), [1] * 7)))
    hidden = stories.apply(stories.params, inputs, soft=table.soft)
    np.testing.assert_allclose(stories.hidden(ids, prompt=prompt.conditioning)[0], hidden[0, 4:], atol=1e-4)


def test_it_starts_as_its_soft_prompt_and_has_a_rate_of_its_own(stories, rows, tmp_path, quiet):
    given = config("dept", rows) | {"method": METHOD, "train": {"steps": 2, "batch_size": 4}}
    given["optimizer"] = {"name": "sgd", "learning_rate": 0.5, "rates": {"prompt": 0.0, "change": 0.5}}
    experiment = build(load_config(given), stories)
    start = experiment.prompt(experiment.init_trainable())
    assert not start.change.any() and start.change.shape == (7, 64)
    prompt = jaxprompt.train(given | {"run_dir": str(tmp_path)}, backbone=stories, reporter=quiet).prompt
    np.testing.assert_array_equal(prompt.soft, start.soft)
    assert np.abs(prompt.change).max() > 0


def test_each_token_of_a_text_has_its_number():
    soft, params = 100, {"word": {"weight": None, "change": None}}
    inputs = Inputs(
        ids=jnp.asarray([[5, 6, soft, 7, 8, 9, 5, soft, 6, 0, 0]]),
        positions=jnp.asarray([[0, 1, 2, 3, 4, 5, 0, 1, 2, 0, 0]]),
        segments=jnp.asarray([[1, 1, 1, 1, 1, 1, 4, 4, 4, 0, 0]]),
    )
    found = numbered(params, inputs, soft).text[0]
    np.testing.assert_array_equal(found, [1, 2, 0, 3, 4, 5, 1, 0, 2, 0, 0])
    # Token 3 predicts the first target, behind two that are in what is computed once.
    scored = jnp.zeros((1, 11), bool).at[0, jnp.asarray([3, 4, 8])].set(True)
    found = numbered(params, inputs, soft, scored, 2).text[0]
    np.testing.assert_array_equal(found, [3, 4, 0, 5, 0, 0, 3, 0, 4, 0, 0])
    assert numbered({"word": {"weight": None}}, inputs, soft) is inputs


def test_a_change_of_more_positions_than_the_model_has_is_refused(stories, rows):
    with pytest.raises(jaxprompt.InputError, match=r"method\.text_length 509 is more than the 508 tokens"):
        build(load_config(config("dept", rows) | {"method": METHOD | {"text_length": 509}}), stories)
