"""What XLA is told of a program, on which machine."""

import logging

import jax
import jax.numpy as jnp
import pytest

from jaxprompt.machine import compiler


@pytest.fixture
def on_gpu(monkeypatch):
    """A machine that says it has a GPU; XLA reads a GPU's options whatever it compiles for."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compiler.options.cache_clear()
    yield
    compiler.options.cache_clear()


def given(monkeypatch):
    """Records what programs are compiled with."""
    seen, real = [], jax.jit

    def jit(function, **arguments):
        seen.append(arguments.get("compiler_options"))
        return real(function, **arguments)

    monkeypatch.setattr(jax, "jit", jit)
    return seen


def test_a_cpu_is_told_nothing():
    compiler.options.cache_clear()
    assert compiler.options() == {}


def test_xla_knows_what_a_gpu_is_told(on_gpu):
    assert compiler.options() == compiler.GPU_OPTIONS != {}


def test_an_option_that_xla_does_not_know_is_left_out_and_said(on_gpu, monkeypatch, caplog):
    monkeypatch.setattr(
        compiler, "GPU_OPTIONS", {"xla_gpu_gone": True, **compiler.GPU_OPTIONS, "xla_gpu_autotune_level": "x"}
    )
    with caplog.at_level(logging.INFO, "jaxprompt"):
        found = compiler.options()
    assert found == {"xla_gpu_enable_triton_gemm": False, "xla_gpu_experimental_enable_fusion_autotuner": False}
    assert [record.getMessage() for record in caplog.records] == [
        "this XLA has no option xla_gpu_gone: left out",
        "this XLA has no option xla_gpu_autotune_level: left out",
    ]


def test_programs_are_compiled_so(on_gpu, monkeypatch):
    seen = given(monkeypatch)
    double = compiler.jit(lambda x: 2 * x)
    assert not seen  # devices are not asked for before the first call
    assert double(jnp.ones(())) == 2 and double.programs() == 1
    assert seen[-1] == compiler.GPU_OPTIONS


def test_the_environment_is_left_alone(on_gpu, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    compiler.options()
    assert "XLA_FLAGS" not in __import__("os").environ
