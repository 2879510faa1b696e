"""What only shows in long runs, shortened: `kills` and `soak` are scripts that can be asked for more."""

import subprocess
import sys

import pytest

from tests.training import kills


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_instants_loses_nothing(tmp_path):
    assert kills.run(tmp_path, 4, seed=0, steps=500) >= 2


@pytest.mark.slow
def test_a_process_does_not_grow(tmp_path):
    """In a process of its own, in which nothing else was."""
    code = (
        "from tests.training import soak\nfrom pathlib import Path\nimport sys\n"
        "print(soak.growth(soak.run(Path(sys.argv[1]), 3000), 600))"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 0.02, found.stderr
