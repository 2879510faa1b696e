"""What `hostile` reads is refused, and costs little."""

import json
import re
import subprocess
import sys

import pytest


def test_what_asks_for_more_than_it_holds_is_refused_at_once_and_for_little():
    found = subprocess.run([sys.executable, "-m", "tests.hostile"], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(lines) > 70
    for line in lines:
        assert line["said"] and "\n" not in line["said"] and len(line["said"]) < 6000, line
        # 5 s on a machine that has nothing else to do.
        assert line["seconds"] < 15 and line["megabytes"] < 500, line


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["safetensors", "gguf", "npy", "prompt"])
def test_chosen_bytes_are_refused_too(reader, tmp_path):
    pytest.importorskip("atheris", reason="the extra fuzz is not installed")
    # libFuzzer's limit of memory would count that of the process that starts it.
    options = ("-max_total_time=15", "-rss_limit_mb=0", f"-artifact_prefix={tmp_path}/")
    command = [sys.executable, "-m", "tests.fuzz", reader, *options]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    assert int(re.search(r"^Done (\d+) runs", found.stderr, re.M).group(1)) > 500
