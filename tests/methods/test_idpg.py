"""IDPG: soft rows made of the words of an example's fields, and of nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprompt
from jaxprompt.config import load_config
from jaxprompt.data.packing import pack_separate
from jaxprompt.experiment.build import build
from jaxprompt.methods import fold
from jaxprompt.scoring.writing import Contexts, contexts_of, search_of, write
from jaxprompt.text.encoded import int32
from jaxprompt.types import Conditioning
from tests.methods.test_contract import config
from tests.methods.test_dept import WORDS, moved, packed

METHOD = {"name": "idpg", "bottleneck": 3, "init": {"top_k": 50}}
CAUSAL = "Read this. {soft:4}Review: {text} It was {target}"


def experiment_of(backbone, rows, template, method=METHOD, **sections):
    return build(load_config(config("idpg", rows, **sections) | {"template": template, "method": method}), backbone)


def own_ids(backbone, before, field, behind):
    """The tokens of a text that hold some of a field, by the tokenizer's own offsets."""
    found = backbone.tokenizer(before + field + behind, add_special_tokens=False, return_offsets_mapping=True)
    first, last = len(before), len(before) + len(field)
    spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [token for token, (start, end) in spans if start < last and end > first]


def made(of, words):
    """`up gelu(down mean + bias)`, of the embeddings `[tokens, embed]` of what is read."""
    mean = words.mean(axis=0) if len(words) else np.zeros(words.shape[1])
    return np.asarray(of.up) @ np.asarray(jax.nn.gelu(of.down @ mean + of.bias, approximate=False))


def as_soft(backbone, conditioning, read, texts, made=made):
    """Texts whose soft ids are rows of their own, and the table of these: `soft` and what is `made` of what is read."""
    words, table, found = np.asarray(backbone.word_embedding(backbone.params)), [], []
    for number, (ids, text) in enumerate(zip(read, texts, strict=True)):
        table.append(conditioning.soft + made(conditioning.generator, words[np.array(ids, int)]))
        text = np.asarray(text)
        found.append(np.where(text >= backbone.vocab_size, text + number * len(conditioning.soft), text))
    return found, Conditioning(soft=jnp.asarray(np.concatenate(table)))


def plain(experiment, conditioning, rows, read, made=made):
    """The loss of rows each by itself, with soft rows of its own."""
    examples, backbone = experiment.encode(rows), experiment.backbone
    name = "source" if backbone.seq2seq else "ids"
    texts, table = as_soft(backbone, conditioning, read, [getattr(example, name) for example in examples], made)
    unread = {"read": None, "source_read": None}
    examples = [dataclasses.replace(e, **unread, **{name: int32(ids)}) for e, ids in zip(examples, texts, strict=True)]
    forward = experiment.forward(())
    batch = pack_separate(examples, num_words=experiment.objective.num_words)
    return float(jax.jit(forward)(table, {}, forward.frozen(), batch).loss)


@pytest.mark.parametrize("objective", [{"type": "generation"}, WORDS], ids=["generation", "words"])
def test_a_decoders_rows_are_made_of_the_field(stories, rows, objective):
    experiment = experiment_of(stories, rows, CAUSAL, objective=objective)
    conditioning = fold(experiment.method, moved(experiment))
    read = [own_ids(stories, "Review: ", row["text"], " It was") for row in rows]
    want = plain(experiment, conditioning, rows, read)
    assert packed(experiment, conditioning) == pytest.approx(want, rel=1e-5)
    unmade = dataclasses.replace(conditioning, generator=None)
    assert packed(experiment, unmade) != pytest.approx(want, rel=1e-4)
    # No word of it means no text: all of the template is read by no one.
    assert plain(experiment, conditioning, rows, [[] for _ in rows]) != pytest.approx(want, rel=1e-4)


def test_an_encoders_rows_are_made_of_the_field(masked, rows):
    experiment = experiment_of(masked, rows, "{soft:3}It was {mask}. {text} All in all.", objective=WORDS)
    conditioning = fold(experiment.method, moved(experiment))
    read = [own_ids(masked, "It was so. ", row["text"], " All in all.") for row in rows]
    want = plain(experiment, conditioning, rows, read)
    assert packed(experiment, conditioning) == pytest.approx(want, rel=1e-5)
    with pytest.raises(jaxprompt.InputError, match="depends on the fields of its template, and input_ids do not say"):
        masked.hidden([[101, 2009, 102]], prompt=experiment.prompt(moved(experiment)))


@pytest.mark.slow
def test_of_an_encoder_decoder_the_encoders_text_is_read(seq2seq, rows):
    experiment = experiment_of(seq2seq, rows, "Review: {soft:4}{text} {target}")
    conditioning = fold(experiment.method, moved(experiment))
    read = [own_ids(seq2seq, "", row["text"], "") for row in rows]
    want = plain(experiment, conditioning, rows, read)
    assert packed(experiment, conditioning) == pytest.approx(want, rel=1e-5)
    trunks = [experiment.encoder.context(row) for row in rows[:3]]
    texts, table = as_soft(seq2seq, conditioning, read[:3], [trunk.source for trunk in trunks])
    contexts = contexts_of(trunks, experiment.encoder)
    search, contexts = search_of(seq2seq, contexts, experiment.encoder, None, max_new_tokens=5)
    found = write(seq2seq, search, contexts, conditioning, 2)
    texts = [text.tolist() for text in texts]
    assert found == write(seq2seq, search, dataclasses.replace(contexts, sources=texts, read=None), table, 2)
    assert found != write(seq2seq, search, contexts, Conditioning(soft=conditioning.soft), 2)


@pytest.mark.slow
def test_text_is_written_behind_rows_of_its_own(stories, rows):
    experiment = experiment_of(stories, rows, CAUSAL)
    conditioning = fold(experiment.method, moved(experiment))
    trunks = [experiment.encoder.context(row) for row in rows[:3]]
    contexts = contexts_of(trunks, experiment.encoder)
    assert 0 < len(contexts.shared) < min(trunk.ids.index(stories.vocab_size) for trunk in trunks) + 1
    search, contexts = search_of(stories, contexts, experiment.encoder, None, max_new_tokens=8)
    found = write(stories, search, contexts, conditioning, 2)
    read = [own_ids(stories, "Review: ", row["text"], " It was") for row in rows[:3]]
    texts, table = as_soft(stories, conditioning, read, [trunk.ids for trunk in trunks])
    alone = [write(stories, search, Contexts([], [text.tolist()]), table, 1)[0] for text in texts]
    assert found == alone
    assert found != write(stories, search, contexts, Conditioning(soft=conditioning.soft), 2)
    # As a user has it, from what a run keeps.
    prompt = experiment.prompt(moved(experiment))
    texts = [row["text"] for row in rows[:3]]
    assert jaxprompt.generate(stories, texts, prompt, max_new_tokens=8, batch_size=2) == found


def test_beside_lora_no_row_sees_another(stories, rows):
    both = {"name": "together", "parts": [METHOD, {"name": "lora", "rank": 2}]}
    experiment = experiment_of(stories, rows, CAUSAL, both)
    conditioning = fold(experiment.method, moved(experiment))
    packed_loss = packed(experiment, conditioning)
    data = {"train": rows, "validation": rows[:2], "packing": False, "share_prefix": False}
    alone = experiment_of(stories, rows, CAUSAL, both, data=data)
    assert packed_loss == pytest.approx(packed(alone, conditioning), rel=1e-5)


def test_tokens_that_hold_some_of_a_field_are_marked(stories, rows):
    experiment = experiment_of(stories, rows, "One: {trim}{text} {/trim}, two: {soft:2}{text}. {label}? {target}")
    trunk = experiment.encoder.trunk({"text": " the cat ", "label": "", "target": "x"})
    marked = [token for token, read in zip(trunk.ids, trunk.read, strict=True) if read]
    cat = own_ids(stories, "One:", " the cat", ", two:")
    assert marked == cat + own_ids(stories, "", " the cat ", ". ?")
    # Of a masked model's example each segment, and the second of two branches' trunks not.
    assert not any(experiment.encoder.trunk({"text": "", "label": "", "target": "x"}).read)


@pytest.mark.parametrize(
    ("template", "message"),
    [("{soft:4}Hello {target}", "no field that the prompt could depend on"), (None, "soft tokens in the decoder")],
)
def test_a_prompt_that_could_depend_on_nothing_is_refused(stories, seq2seq, rows, template, message):
    backbone = stories if template else seq2seq
    with pytest.raises(jaxprompt.InputError, match=message):
        experiment_of(backbone, rows, template or "{text} {decoder} {soft:4}{target}")
