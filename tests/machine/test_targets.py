"""Chips that are not at hand."""

import importlib.util

import jax
import pytest

from jaxprompt.errors import InputError
from jaxprompt.machine.targets import TARGETS, chips_of, missing_compiler, simulated


def test_the_smallest_topology_that_holds_the_chips():
    assert [TARGETS["v5e"].topology(n) for n in (1, 5, 64, 256)] == ["2x2", "2x4", "8x8", "16x16"]
    assert TARGETS["v5p"].topology(64) == "4x4x4" and TARGETS["h100"].topology(64) == "1x8x8"
    with pytest.raises(InputError, match="no topology has 512 chips"):
        TARGETS["v6e"].topology(512)
    for target in TARGETS.values():
        assert list(target.topologies) == sorted(target.topologies, key=chips_of)


@pytest.mark.parametrize("text", ["16", "4x", "ax4", "0x4", "4X4"])
def test_a_topology_is_chips_by_axis(text):
    if text == "16":
        assert chips_of(text) == 16
    else:
        with pytest.raises(InputError, match=f"topology '{text}': give chips by axis"):
            chips_of(text)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert missing_compiler(TARGETS["v5e"]) == "jaxprompt[tpu]" and missing_compiler(TARGETS["h100"]) == "jax[cuda12]"


def test_devices_are_simulated_in_a_process_of_their_own():
    assert simulated(1) == jax.devices("cpu")[:1]
    with pytest.raises(InputError, match="has 1 CPU devices, not 3"):
        simulated(3)
