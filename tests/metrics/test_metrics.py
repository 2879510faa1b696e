"""Metrics against definitions written out one example at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprompt.metrics import figures as metrics


def naive_f1(predicted, labels, of):
    true = sum(p == of and y == of for p, y in zip(predicted, labels, strict=True))
    precision = true / max(sum(p == of for p in predicted), 1)
    recall = true / max(sum(y == of for y in labels), 1)
    return 2 * precision * recall / (precision + recall) if true else 0.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_macro_f1_is_the_mean_over_the_classes_that_occur(pairs):
    predicted, labels = map(list, zip(*pairs, strict=True))
    classes = sorted({*predicted, *labels})
    expected = sum(naive_f1(predicted, labels, of) for of in classes) / len(classes)
    assert metrics.macro_f1(np.array(predicted), np.array(labels)) == pytest.approx(expected)


def test_classification():
    logits = np.log([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25]])
    found = metrics.classification(logits + 1000, np.array([0, 1, 2, 1]))
    assert found["accuracy"] == 0.75
    # Class 0: precision 1/2, recall 1. Class 1: precision 1, recall 1/2. Class 2: all right.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.5]).mean())
    assert found["examples"] == 4


def test_generation_weighs_tokens_and_not_examples():
    found = metrics.generation(np.array([2.0, 10.0]), np.array([1, 5]))
    assert found == {"loss": 2.0, "perplexity": pytest.approx(math.exp(2.0)), "target_tokens": 6, "examples": 2}


def test_a_hopeless_perplexity_is_still_a_number():
    assert math.isfinite(metrics.generation(np.array([1e6]), np.array([1]))["perplexity"])


def test_majority_takes_the_most_frequent_label_of_the_training_rows():
    assert metrics.majority([0, 0, 0, 1], of=[1, 1, 0]) == 0.25
    assert metrics.majority([0, 0, 0, 1], of=[0, 0, 1]) == 0.75
