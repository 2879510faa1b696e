import numpy as np
import pytest

from jaxprompt.scoring.confidence import intervals


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = intervals({"mean": values}, {"whole": lambda at: values[at].mean()}, 400, 0.9)
    half = 1.645 * values.std() / 20
    for name, slack in (("mean", 0.15), ("whole", 0.35)):
        np.testing.assert_allclose(found[name], [values.mean() - half, values.mean() + half], atol=slack * half)
    assert found == intervals({"mean": values}, {"whole": lambda at: values[at].mean()}, 400, 0.9)


def test_more_confidence_is_a_wider_interval():
    values = np.arange(50.0)
    narrow, wide = (intervals({"m": values}, {}, 50, level)["m"] for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.674 * values.std() / 50**0.5, rel=0.15)
