"""Files packed by gzip or Zstandard."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator

from jaxprompt.errors import InputError

# Text is packed to a tenth, logs to a fiftieth. What becomes far more than that was made to fill the memory.
MOST_TIMES, UNBOUNDED_BYTES = 200, 256 << 20
# So little that no piece of it unpacks to more than the memory holds: Zstandard makes 128 KiB of four bytes.
_PIECE = 4 << 10


def unpacked(data: bytes, suffix: str, name: str) -> bytes:
    """What a file holds; as it is without a suffix of `UNPACKERS`. Raises InputError for a damaged file, or a bomb."""
    if suffix not in UNPACKERS:
        return data
    parts, total = [], 0
    for part, read in UNPACKERS[suffix](data, name):
        parts.append(part)
        total += len(part)
        if total > UNBOUNDED_BYTES and total > MOST_TIMES * read:
            raise InputError(
                f"{name}: its first {read:,} bytes unpack to {total:,}, as no text does (unpack it, if you trust it)"
            )
    return b"".join(parts)


def _gzip(data: bytes, name: str) -> Iterator[tuple[bytes, int]]:
    packed = io.BytesIO(data)
    try:
        with gzip.GzipFile(fileobj=packed) as file:
            while part := file.read(1 << 20):
                yield part, packed.tell()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: is no whole gzip file: {error} (fetch or pack it again)") from None


def _zstandard(data: bytes, name: str) -> Iterator[tuple[bytes, int]]:
    try:
        import zstandard
    except ImportError:
        raise InputError(f"{name}: reading it needs zstandard (pip install 'jaxprompt[zstd]')") from None
    read, frame = 0, None
    try:
        while read < len(data):
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            piece = data[read : read + _PIECE]
            part = frame.decompress(piece)
            read += len(piece)
            if frame.eof:  # frames, one behind the other
                read -= len(frame.unused_data)
                frame = None
            yield part, read
        if frame is not None:
            raise zstandard.ZstdError("it ends within a frame")
    except zstandard.ZstdError as error:
        raise InputError(f"{name}: is no whole Zstandard file: {error} (fetch or pack it again)") from None


# The bytes of a packed file, part by part, each with how many packed bytes were read by then.
UNPACKERS: dict[str, Callable[[bytes, str], Iterator[tuple[bytes, int]]]] = {".gz": _gzip, ".zst": _zstandard}
