"""Files packed by gzip or Zstandard."""

import gzip
import zlib
from collections.abc import Callable

from jaxprompt.errors import InputError


def unpacked(data: bytes, suffix: str, name: str) -> bytes:
    """What a file holds; as it is without a suffix of `UNPACKERS`. Raises InputError for a damaged file."""
    return UNPACKERS[suffix](data, name) if suffix in UNPACKERS else data


def _gzip(data: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: is no whole gzip file: {error} (fetch or pack it again)") from None


def _zstandard(data: bytes, name: str) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise InputError(f"{name}: reading it needs zstandard (pip install 'jaxprompt[zstd]')") from None
    parts = []
    try:
        while data:  # frames, one behind the other
            frame = zstandard.ZstdDecompressor().decompressobj()
            parts.append(frame.decompress(data))
            if not frame.eof:
                raise zstandard.ZstdError("it ends within a frame")
            data = frame.unused_data
    except zstandard.ZstdError as error:
        raise InputError(f"{name}: is no whole Zstandard file: {error} (fetch or pack it again)") from None
    return b"".join(parts)


UNPACKERS: dict[str, Callable[[bytes, str], bytes]] = {".gz": _gzip, ".zst": _zstandard}
