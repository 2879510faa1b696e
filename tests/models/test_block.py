import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxprompt.backbone import load_backbone
from jaxprompt.types import Inputs

GOLDEN = Path(__file__).parents[1] / "golden"
TARGETS = np.asarray([[0, 4, 9, 2]])


def rows(ids):
    return Inputs(ids, np.broadcast_to(np.arange(ids.shape[1]), ids.shape), np.ones_like(ids))


@pytest.mark.parametrize(("name", "matrix"), [("t5", r"\.wo\."), ("mt5", r"\.wo\."), ("mbart", r"encoder.*\.fc2\.")])
def test_sums_that_float16_cannot_hold(name, matrix, tmp_path):
    """What an MLP adds goes beyond 65504, as in published T5s; all that comes of it is as in float32."""
    shutil.copy(GOLDEN / name / "config.json", tmp_path)
    weights = load_file(GOLDEN / name / "model.safetensors")
    large = {key: array * np.float32(15e3 if re.search(matrix, key) else 1) for key, array in weights.items()}
    save_file(large, tmp_path / "model.safetensors")
    source = np.concatenate([np.arange(61, 64), np.random.default_rng(0).integers(0, 61, 12)])[None]
    soft = np.random.default_rng(1).normal(size=(3, 24)).astype(np.float32)

    def run(dtype):
        """Logits, and the gradient of a soft prompt."""
        backbone = load_backbone(tmp_path, dtype=dtype, remat="none")

        def loss(soft, params):
            memory = backbone.read(params, rows(source), soft=soft)
            logits = backbone.head(params, backbone.apply(params, rows(TARGETS), memory=memory))
            return -jax.nn.log_softmax(logits)[..., 7].mean(), logits

        (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(soft, backbone.params)
        return np.asarray(logits), np.asarray(gradient)

    (logits, gradient), (want, want_gradient) = run("float16"), run("float32")
    np.testing.assert_allclose(logits, want, atol=0.02 * np.abs(want).max())
    assert np.linalg.norm(gradient - want_gradient) < 0.15 * np.linalg.norm(want_gradient)
