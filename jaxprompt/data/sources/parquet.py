"""Parquet."""

from typing import BinaryIO

from jaxprompt.data.sources.base import Row, repeated
from jaxprompt.errors import InputError


def read_parquet(file: BinaryIO, name: str) -> list[Row]:
    """Reads a Parquet file, whose nested columns become lists and dictionaries."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{name}: reading it needs pyarrow (pip install 'jaxprompt[parquet]')") from None
    try:
        table = pyarrow.parquet.ParquetFile(file).read()
        names = table.column_names
        if len(set(names)) == len(names):
            return table.to_pylist()
    # ValueError: a time outside Python's years, or a text that is not UTF-8.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        message = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: not a readable Parquet file: {message} (write it again)") from None
    raise InputError(f"{name}: two columns {repeated(names)!r} (rename one)")
