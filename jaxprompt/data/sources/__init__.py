"""Where rows come from."""

from jaxprompt.data.sources.rows import read_rows

__all__ = ["read_rows"]
