"""What `hostile` reads is refused, and costs little."""

import json
import subprocess
import sys


def test_what_asks_for_more_than_it_holds_is_refused_at_once_and_for_little():
    found = subprocess.run([sys.executable, "-m", "tests.hostile"], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(lines) > 70
    for line in lines:
        assert line["said"] and "\n" not in line["said"] and len(line["said"]) < 6000, line
        # 5 s on a machine that has nothing else to do.
        assert line["seconds"] < 15 and line["megabytes"] < 500, line
