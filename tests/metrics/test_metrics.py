"""Metrics against definitions written out one example at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprompt import metrics
from jaxprompt.metrics.classification import confusion, majority
from jaxprompt.objectives.classifier import Classifier
from jaxprompt.objectives.generation import Generation
from jaxprompt.scoring.evaluate import Evaluation


def naive_f1(predicted, labels, of):
    true = sum(p == of and y == of for p, y in zip(predicted, labels, strict=True))
    precision = true / max(sum(p == of for p in predicted), 1)
    recall = true / max(sum(y == of for y in labels), 1)
    return 2 * precision * recall / (precision + recall) if true else 0.0


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_macro_f1_is_the_mean_over_the_classes_that_occur(pairs):
    predicted, labels = map(list, zip(*pairs, strict=True))
    classes = sorted({*predicted, *labels})
    expected = sum(naive_f1(predicted, labels, of) for of in classes) / len(classes)
    logits = np.eye(4)[predicted]
    assert metrics.MACRO_F1({"logits": logits}, {"label": np.array(labels)}) == pytest.approx(expected)


def test_classification():
    logits = np.log([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25]])
    evaluation = Evaluation({"logits": logits + 1000}, {"label": np.array([0, 1, 2, 1])})
    found = evaluation.metrics(Classifier.metrics)
    assert found["accuracy"] == 0.75
    # Class 0: precision 1/2, recall 1. Class 1: precision 1, recall 1/2. Class 2: all right.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.5]).mean())
    assert found["examples"] == 4


def test_generation_weighs_tokens_and_not_examples():
    found = Evaluation({"nll": np.array([2.0, 10.0]), "tokens": np.array([1, 5])}, {}).metrics(Generation.metrics)
    assert found == {"loss": 2.0, "perplexity": pytest.approx(math.exp(2.0)), "target_tokens": 6, "examples": 2}


def test_a_hopeless_perplexity_is_still_a_number():
    assert math.isfinite(metrics.PERPLEXITY({"nll": np.array([1e6]), "tokens": np.array([1])}, {}))


def test_majority_takes_the_most_frequent_label_of_the_training_rows():
    assert majority([0, 0, 0, 1], of=[1, 1, 0]) == 0.25
    assert majority([0, 0, 0, 1], of=[0, 0, 1]) == 0.75


def test_examples_without_an_answer_are_counted_and_not_scored():
    logits = np.log([[0.7, 0.3], [0.5, 0.5], [0.1, 0.9]])
    found = Evaluation({"logits": logits}, {"label": np.array([0, -1, 0])}).metrics([metrics.ACCURACY])
    assert found == {"accuracy": 0.5, "examples": 2, "without_answer": 1}


def test_what_is_not_finite_is_named_by_its_number():
    evaluation = Evaluation({"value": np.array([1.0, np.nan, 2.0, np.inf])}, {"value": np.zeros(4)})
    assert evaluation.not_finite == [2, 4]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_correlations(pairs):
    found, wanted = (np.array(part, float) for part in zip(*pairs, strict=True))
    outputs, answers = {"value": found}, {"value": wanted}
    constant = np.ptp(found) == 0 or np.ptp(wanted) == 0

    def naive_rank(values):
        return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])

    for metric, of in ((metrics.PEARSON, lambda x: x), (metrics.SPEARMAN, naive_rank)):
        want = 0.0 if constant else np.corrcoef(of(found), of(wanted))[0, 1]
        assert metric(outputs, answers) == pytest.approx(want, abs=1e-9)
    assert metrics.MEAN_SQUARED_ERROR(outputs, answers) == pytest.approx(np.mean((found - wanted) ** 2))


def test_two_classes_worked_by_hand():
    predicted, labels = [1, 1, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0]
    values = {"logits": np.eye(2)[predicted]}, {"label": np.array(labels)}
    # Of class 1: two right, one taken for it wrongly, one missed.
    assert metrics.F1(*values) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert metrics.MICRO_F1(*values) == pytest.approx(4 / 6)
    assert metrics.MATTHEWS(*values) == pytest.approx((2 * 2 - 1 * 1) / (3 * 3 * 3 * 3) ** 0.5)
    assert confusion(values[0]["logits"], values[1]["label"]) == [[2, 1], [1, 2]]


def test_calibration_error_is_the_gap_of_confidence_and_accuracy():
    # Four times 90 % sure and three times right; twice 60 % sure and always right.
    logits = np.log([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2)
    labels = np.array([0, 0, 0, 1, 1, 1])
    want = (4 * abs(0.75 - 0.9) + 2 * abs(1.0 - 0.6)) / 6
    assert metrics.CALIBRATION_ERROR({"logits": logits}, {"label": labels}) == pytest.approx(want)


def test_bits_per_byte():
    outputs = {"nll": np.array([8 * math.log(2), 0.0]), "tokens": np.array([3, 1])}
    assert metrics.BITS_PER_BYTE(outputs, {"bytes": np.array([3, 1])}) == pytest.approx(2.0)
