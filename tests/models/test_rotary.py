import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.errors import InputError
from jaxprompt.models.families.llama import rope_parameters
from jaxprompt.models.rotary import rotary_from, rotate

LONG = {"rope_type": "longrope", "original_max_position_embeddings": 32}


def test_rotation_depends_on_distance_alone():
    rotary = rotary_from({"rope_theta": 100.0}, 6, 64)
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 6)), jnp.float32) for _ in range(2))

    def score(at_q, at_k):
        return float(
            (rotate(q, rotary.angles(jnp.array([[at_q]]))) * rotate(k, rotary.angles(jnp.array([[at_k]])))).sum()
        )

    assert score(9, 4) == pytest.approx(score(25, 20), abs=1e-5)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


def test_older_configs_mean_the_same():
    new = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}
    old = {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}}
    plain = {"rope_theta": 500.0, "rope_scaling": None}
    assert rotary_from(rope_parameters(new), 8, 64) == rotary_from(rope_parameters(old), 8, 64)
    assert rotary_from(rope_parameters(plain), 8, 64) != rotary_from(rope_parameters(old), 8, 64)
    assert rotary_from(rope_parameters({}), 8, 64) == rotary_from({"rope_theta": 10000.0}, 8, 64)


def test_dynamic_is_default_within_the_models_positions():
    assert rotary_from({"rope_type": "dynamic", "factor": 2.0}, 8, 64) == rotary_from({}, 8, 64)


@pytest.mark.parametrize(
    ("parameters", "head_dim", "message"),
    [
        ({"rope_type": "longrope"}, 8, "original_max_position_embeddings"),
        ({"rope_type": "linear"}, 8, "factor"),
        ({"rope_type": "llama3", "factor": "8"}, 8, "'8'"),
        ({"partial_rotary_factor": 0.4}, 8, "3 of 8 head elements: the number must be even"),
        ({"partial_rotary_factor": 2.0}, 8, "16 of 8"),
        ({"rope_type": "xpos"}, 8, "implemented: default, dynamic, linear, llama3, longrope, yarn"),
        ({"rope_type": "longrope", "original_max_position_embeddings": 32, "short_factor": [1.0]}, 8, "4 numbers"),
        ({}, 7, "7 of 7 head elements"),
        ({}, 2**30, "heads of 1073741824, expected at most 65536"),
        *(({"rope_theta": bad}, 8, "finite number for 'rope_theta'") for bad in (math.nan, math.inf, 10**400)),
        ({"partial_rotary_factor": math.nan}, 8, "finite number for 'partial_rotary_factor'"),
        ({"rope_type": "linear", "factor": math.inf}, 8, "finite number for 'factor', and has inf"),
        ({"rope_type": "linear", "factor": 1e-45, "rope_theta": 1e-30}, 8, "give frequencies that are not finite"),
        ({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}, 8, "give frequencies that are not finite"),
        ({"rope_type": "yarn", "factor": 2.0, "beta_fast": 0}, 8, "beta_fast=0, .*: expected more than 0"),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": "false"}, 8, "truncate='false': expected true or false"),
        ({"rope_type": "yarn", "factor": 2.0, "attention_factor": math.nan}, 8, "number for 'attention_factor'"),
        ({**LONG, "short_factor": [1.0, 1.0, 0.0, 1.0]}, 8, "give frequencies that are not finite"),
        ({**LONG, "short_factor": [1.0, 1.0, math.nan, 1.0]}, 8, "4 numbers for 'short_factor'"),
        ({**LONG, "short_factor": [1.0, 1.0, "1", 1.0]}, 8, "4 numbers for 'short_factor'"),
    ],
)
def test_refusals(parameters, head_dim, message):
    with pytest.raises(InputError, match=message) as error:
        rotary_from(parameters, head_dim, 64)
    assert "\n" not in str(error.value)
