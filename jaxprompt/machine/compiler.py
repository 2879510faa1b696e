"""How XLA compiles this library's programs: options of each program, never of the environment."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax

log = logging.getLogger("jaxprompt")

# On an NVIDIA GPU XLA would compile and time dozens of kernels by Triton for every product, and for every fusion its own
# against Triton's: minutes for a model of 3B, for products that cuBLAS computes as fast. (Reports of tens of minutes, and
# of crashes: openxla/xla's pull request 13108, tue-bmd/zea's issue 599. What is left, the choice among cuBLAS's own
# algorithms, takes seconds.)
GPU_OPTIONS: dict[str, Any] = {
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_experimental_enable_fusion_autotuner": False,
}


@functools.cache
def options() -> dict[str, Any]:
    """The options for this process's devices, less those that its XLA does not know."""
    known = dict(GPU_OPTIONS) if jax.default_backend() == "gpu" else {}
    if known and not _takes(known):
        for name in list(known):
            if not _takes({name: known[name]}):
                log.info(f"this XLA has no option {name}: left out")
                del known[name]
    return known


def _takes(some: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=some).lower(0.0).compile()
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise
        return False
    return True


class jit:
    """As `jax.jit`, by these options; they are looked up when it is first used, since JAX then asks for devices."""

    def __init__(self, function: Callable, **arguments: Any):
        self._function, self._arguments = function, arguments
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _jitted(self) -> Callable:
        return jax.jit(self._function, compiler_options=options(), **self._arguments)

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self._jitted(*values, **named)

    def trace(self, *values: Any, **named: Any) -> jax.stages.Traced:
        return self._jitted.trace(*values, **named)

    def lower(self, *values: Any, **named: Any) -> jax.stages.Lowered:
        return self._jitted.lower(*values, **named)

    def programs(self) -> int:
        """How many it has compiled for its calls."""
        return self._jitted._cache_size()
