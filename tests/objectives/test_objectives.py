"""What is scored, against plain computations on single examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.config import load_config
from jaxprompt.experiment.build import build
from jaxprompt.inference.score import score
from jaxprompt.metrics import ACCURACY
from jaxprompt.objectives.pooling import pool
from jaxprompt.types import Inputs


def scored(backbone, rows, **case):
    """Class logits under a prompt of the config's start."""
    tree = {"model": "m", "method": {"init": {"type": "vocab", "top_k": 50}}, "train": {"steps": 0}, **case}
    experiment = build(load_config(tree), backbone)
    prompt = experiment.prompt(experiment.init_trainable())
    return experiment, prompt, score(experiment, prompt, experiment.encode(rows))


def test_a_verbalizer_gives_the_probabilities_of_the_label_texts(stories, rows):
    """Labels of one and of several tokens, two words for one label: the same as scoring whole texts one by one."""
    labels = {"0": ["so bad", "sad"], "1": ["good", "h"]}
    template = "{bos}{soft:2}Review: {text} It was {target}"
    experiment, prompt, result = scored(
        stories, rows[:4], template=template, objective={"type": "verbalizer", "labels": labels}
    )
    tokenize = experiment.encoder.tokens.continuation

    @jax.jit
    def logprobs_of(params, soft, inputs):
        return jax.nn.log_softmax(stories.head(params, stories.apply(params, inputs, soft=soft))[0])

    for row, logits in zip(rows[:4], result.outputs["logits"], strict=True):
        context = stories.tokenizer(f"Review: {row['text']} It was", add_special_tokens=False)["input_ids"]
        want = []
        for words in labels.values():
            by_word = []
            for word in words:
                target = tokenize(f" {word}")
                ids = [stories.tokenizer.bos_token_id, *context, *target]
                # The prompt stands after the first token, so it is put there by hand.
                soft = stories.vocab_size + np.arange(2)
                ids = [ids[0], *soft, *ids[1:]]
                first = len(ids) - len(target) - 1
                # A causal model does not see what follows; one length is one compilation.
                ids = np.array([[*ids, *[0] * (80 - len(ids))]])
                inputs = Inputs(ids=ids, positions=np.arange(80)[None], segments=np.ones_like(ids))
                logprobs = logprobs_of(stories.params, jnp.asarray(prompt.soft), inputs)
                by_word.append(sum(float(logprobs[first + i, token]) for i, token in enumerate(target)))
            want.append(np.logaddexp.reduce(by_word))
        np.testing.assert_allclose(logits, want, atol=1e-4)


def test_one_token_words_give_the_same_choice_probabilities_as_full_scoring(stories, rows):
    """Multiplying by the label columns alone changes every score by the same amount."""
    objective = {"type": "verbalizer", "labels": {"0": "b", "1": ["g", "h"]}}
    template = "{soft:2}Review: {text} It was{target}"
    experiment, _, columns = scored(stories, rows, template=template, objective=objective)
    assert experiment.objective.columns is not None
    longer = {"type": "verbalizer", "labels": {"0": "b", "1": ["g", "h"], "2": "some other words"}}
    experiment, _, full = scored(stories, rows, template=template, objective=longer)
    assert experiment.objective.columns is None
    columns, full = columns.outputs["logits"], full.outputs["logits"]
    np.testing.assert_allclose(columns[:, 0] - columns[:, 1], full[:, 0] - full[:, 1], atol=1e-4)


@pytest.mark.parametrize("how", ["mean", "first", "last"])
def test_pooling_takes_the_segments_own_real_tokens(how):
    vocab = 10
    ids = jnp.array([[10, 3, 4, 11, 5, 6, 7, 0]])
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]])
    hidden = jnp.arange(8.0)[None, :, None]
    at = {"mean": [[0, 0]], "first": [[1, 4]], "last": [[2, 6]]}[how]
    vectors = pool(how, hidden, Inputs(ids, ids, segments), jnp.array(at), vocab)
    want = {"mean": [1.5, 5.0], "first": [1, 4], "last": [2, 6]}[how]
    assert vectors[0, :, 0].tolist() == want


def test_similarity_is_the_cosine_of_mean_vectors(minilm):
    """With no prompt: sentence-transformers' recipe, computed here text by text."""
    texts = {"a": "my card was stolen", "b": "what is the exchange rate"}
    rows = [{"text": "where is my card", "label": "a"}, {"text": "dollars to euros please", "label": "b"}]
    _, _, result = scored(
        minilm,
        rows,
        template="{text}",
        method={"name": "none"},
        objective={"type": "similarity", "labels": texts, "temperature": 0.1},
    )

    def vector(text):
        mean = np.asarray(minilm.hidden([minilm.tokenizer(text)["input_ids"]]))[0].mean(0)
        return mean / np.linalg.norm(mean)

    want = [[vector(row["text"]) @ vector(text) / 0.1 for text in texts.values()] for row in rows]
    np.testing.assert_allclose(result.outputs["logits"], want, atol=1e-4)
    assert result.metrics([ACCURACY]) == {"accuracy": 1.0, "examples": 2}
