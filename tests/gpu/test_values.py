"""Values and gradients of every architecture on a GPU are those of a CPU, by type and by attention.

    JAX_PLATFORMS=cuda,cpu python -m pytest -m gpu -n 8 --dist loadgroup

With `JAXPROMPT_TEST_DEVICE=cpu` the device under test is the CPU itself, which tries the tests and not the GPU.
"""

import concurrent.futures
import multiprocessing
import os

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxprompt.backbone import load_backbone
from jaxprompt.errors import InputError
from tests import FAST_TO_COMPILE
from tests.conftest import ARCHITECTURES, GOLDEN
from tests.gpu.cases import TRAINED, Case, gradients, greedy

DRY = os.environ.get("JAXPROMPT_TEST_DEVICE") == "cpu"
# One of each architecture, and the trained one.
FOLDERS = sorted({*ARCHITECTURES.values(), TRAINED})
# Of a gradient, relative to its norm. In float32 a loop and separate layers differ by 1e-6 on a CPU already; TF32, which a
# GPU computes in unless told, is worse than 1e-4.
FLOAT32_ERROR = 2e-5
# In bfloat16 a GPU may be as far from float32 as twice what a CPU is, and at least as far as this.
BFLOAT16_ERROR = 3e-2


def each(*cases: Case):
    """Cases of one reference go to one worker, which computes that once."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=_name(case), marks=_group(case)) for case in cases])


def _group(case):
    return pytest.mark.xdist_group(_name(case.reference()))


def _name(case):
    said = [case.folder, case.dtype, case.attention]
    said += [case.quantize] if case.quantize else []
    said += ["unrolled"] if case.unroll else []
    said += [] if case.shared else ["in-rows"]
    return "-".join(said + (["classifier"] if case.classifier else []))


pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def device():
    if jax.default_backend() != "gpu" and not DRY:
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(scope="session")
def on_cpu():
    """Runs a function in a process that has no GPU, while this one goes on; returns its future.

    A process of its own, because the library asks which backend there is, and jit keeps what it traced for one.
    """
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_TO_COMPILE, "CUDA_VISIBLE_DEVICES": ""}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        pool.submit(int).result()  # it has started, in this environment
    with pool:
        yield pool.submit


def errors(found, expected) -> dict[str, float]:
    """Of the loss and of the gradient with respect to each thing learned: the norm of the difference over the norm."""
    assert found.keys() == expected.keys()
    assert all(np.isfinite(array).all() for array in found.values())

    def error(got, want):
        return float(np.linalg.norm(np.float64(got) - np.float64(want)) / np.linalg.norm(np.float64(want)))

    return {name: error(found[name], expected[name]) for name in expected}


def check(on_cpu, case):
    exact = on_cpu(gradients, case.reference())
    rounded = None if case.dtype == "float32" else on_cpu(gradients, case.reference(case.dtype))
    found = errors(gradients(case), exact.result())
    bound = FLOAT32_ERROR
    if rounded is not None:
        of_cpu = errors(rounded.result(), exact.result())
        print("the CPU's own:", shown(of_cpu))
        bound = max(2 * max(of_cpu.values()), BFLOAT16_ERROR)
    print("relative errors:", shown(found), f"bound: {bound:.1e}")
    assert max(found.values()) <= bound, shown(found)


def shown(figures):
    return " ".join(f"{name} {figure:.1e}" for name, figure in figures.items())


@pytest.mark.parametrize("folder", FOLDERS)
def test_outputs_are_those_of_hugging_face(folder):
    """As tests/models/test_golden, to the same tolerance."""
    aside = GOLDEN / f"{folder}-expected.safetensors"
    backbone = load_backbone(GOLDEN / folder)
    expected = load_file(aside if aside.exists() else GOLDEN / folder / "expected.safetensors")
    output = "logits" if backbone.has_head else "hidden"
    more = {"decoder_input_ids": expected["decoder_ids"]} if backbone.seq2seq else {}
    got = np.asarray(getattr(backbone, output)(expected["ids"], expected["mask"], **more))
    want, real = expected[f"plain_{output}"], ... if backbone.seq2seq else expected["mask"] != 0
    np.testing.assert_allclose(got[real], want[real], atol=1e-4, rtol=1e-4)


@each(*(Case(folder) for folder in FOLDERS))
def test_float32(on_cpu, case):
    check(on_cpu, case)


@each(*(Case(folder, "bfloat16", "xla", unroll=True) for folder in FOLDERS))
def test_bfloat16(on_cpu, case):
    check(on_cpu, case)


CAPPED = [ARCHITECTURES["gemma2"]]


@each(*(Case(folder, "bfloat16", "cudnn") for folder in FOLDERS if folder not in CAPPED))
def test_cudnn(on_cpu, case):
    needs_cudnn(case)
    check(on_cpu, case)


@each(*(Case(folder, "bfloat16", "cudnn") for folder in CAPPED))
def test_cudnn_refuses(case):
    needs_cudnn(case)
    with pytest.raises(InputError, match="cannot cap attention logits"):
        gradients(case)


@each(
    # Layers apart, in the type where a difference of rounding is seen best.
    *(Case(folder, unroll=True) for folder in ("bert", "gemma2", "t5", TRAINED)),
    *(Case(folder, "bfloat16", "cudnn", unroll=True) for folder in ("t5", TRAINED)),
    # A decoder whose rows hold the soft prompt themselves.
    *(Case(folder, shared=False) for folder in ("gemma2", "gpt2", TRAINED)),
    *(Case(folder, "bfloat16", "cudnn", shared=False) for folder in ("gpt2", TRAINED)),
    # Weights in fewer bits.
    Case(TRAINED, quantize="int8"),
    Case(TRAINED, quantize="int4"),
    Case(TRAINED, "bfloat16", "cudnn", quantize="int8"),
    # A classifier on a masked model, on a decoder.
    Case("roberta", classifier=True),
    Case("roberta", "bfloat16", "cudnn", classifier=True),
    Case(TRAINED, classifier=True),
)
def test_other_ways(on_cpu, case):
    needs_cudnn(case)
    check(on_cpu, case)


@pytest.mark.parametrize("folder", [TRAINED, "gpt2", "t5"])
def test_greedy_generation(on_cpu, folder):
    expected = on_cpu(greedy, folder)
    found = greedy(folder)
    assert len(np.unique(found)) > 3
    np.testing.assert_array_equal(found, expected.result())


def needs_cudnn(case):
    if DRY and case.attention == "cudnn":
        pytest.skip("cuDNN's attention needs an NVIDIA GPU")
