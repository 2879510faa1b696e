"""Sets that tensorflow-datasets has prepared as array_record files: read by number, without TensorFlow."""

import contextlib
import functools
import os
import re
import sys
from pathlib import Path
from typing import Any

from jaxprompt.data.sources.base import Reading, Row, Source, file_digest
from jaxprompt.errors import InputError, did_you_mean, listed

_REFERENCE = re.compile(r"tfds:(?P<name>.+?)(:(?P<split>[\w.-]+(\[.*\])?))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class PreparedSource(Source):
    """A split of a prepared set. Copies in other processes open the files of their own."""

    def __init__(self, name: str, folder: Path, split: str):
        self.name, self._folder, self._split = name, folder, split
        self._records: Any = None
        info = _builder(folder, name).info
        base = split.partition("[")[0]
        if base not in info.splits:
            raise InputError(f"{name}: no split {base!r}{did_you_mean(base, info.splits)}")
        names = {column: tuple(feature.names or ()) for column, feature in info.features.items() if _is_class(feature)}
        self.label_names = {column: found for column, found in names.items() if found} or None
        if not len(self):
            raise InputError(f"{name}: no rows (give at least one)")

    def __len__(self) -> int:
        return len(self._opened())

    def _row(self, number: int) -> Row:
        try:
            return _plain(self._opened()[number])
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name}: row {number + 1} holds bytes that are not UTF-8: {error.reason}") from None
        except (ValueError, RuntimeError, OSError) as error:
            raise _damaged(self.name, error) from None

    @functools.cached_property
    def fingerprint(self) -> str:
        return file_digest(sorted(path for path in self._folder.iterdir() if path.is_file()), self._split)

    def _opened(self) -> Any:
        if self._records is None:
            try:
                self._records = _builder(self._folder, self.name).as_data_source(split=self._split)
            except NotImplementedError:
                raise InputError(
                    f"{self.name}: {str(self._folder)!r} is not of array_record files (prepare it with "
                    "file_format=array_record)"
                ) from None
            except Exception as error:  # tensorflow-datasets and array_record raise many kinds
                raise _damaged(self.name, error) from None
        return self._records

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None}


def open_tfds(reference: str, how: Reading) -> PreparedSource:
    """Opens `tfds:NAME[/CONFIG]:SPLIT`, in data.dir or where tensorflow-datasets keeps its sets, or `tfds:FOLDER:SPLIT`.

    Raises InputError for a set that is not prepared, unless data.download, or a split that it has not.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise InputError(f"{reference}: expected tfds:NAME/CONFIG:SPLIT or tfds:FOLDER:SPLIT (correct it)")
    if found["name"].startswith(("/", ".", "~")):
        folder = Path(found["name"]).expanduser()
        if not (folder / "dataset_info.json").is_file():
            raise InputError(
                f"{reference}: {str(folder)!r} is no prepared set: no dataset_info.json in it (check the path)"
            )
    else:
        folder = _prepared(found["name"], how, reference)
    if found["split"] is None:
        splits = listed(_builder(folder, reference).info.splits)
        raise InputError(f"{reference}: names no split (add :SPLIT, one of {splits})")
    return PreparedSource(reference, folder, found["split"])


def _prepared(name: str, how: Reading, reference: str) -> Path:
    """The folder of the newest version of a set."""
    root = Path(how.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = root / name
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    versions = [part for part in inside if _VERSION.fullmatch(part)]
    if versions:
        return folder / max(versions, key=lambda version: tuple(map(int, version.split("."))))
    if inside and not how.download:
        raise InputError(f"{reference}: {name!r} has several configs: add one (choose from: {listed(inside)})")
    if not how.download:
        raise InputError(
            f"{reference}: not prepared in {str(root)!r} (set data.dir to where it is, or data.download=true to fetch it)"
        )
    tfds = library(reference)
    try:
        builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
        # What it prints is no answer of a command's.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # of the set's own code, the network or the disk
        message = " ".join(str(error).split())[:200]
        raise InputError(
            f"{reference}: cannot be prepared: {type(error).__name__}: {message} (prepare it elsewhere)"
        ) from None
    return Path(builder.data_dir)


def _builder(folder: Path, name: str) -> Any:
    tfds = library(name)
    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as error:  # damaged files raise many kinds
        raise _damaged(name, error) from None


def library(name: str) -> Any:
    """tensorflow-datasets. Raises InputError, with the name of what needs it, where it is not installed."""
    try:
        import array_record  # noqa: F401
        import tensorflow_datasets
    except ImportError:
        raise InputError(f"{name}: this needs tensorflow-datasets (pip install 'jaxprompt[tfds]')") from None
    return tensorflow_datasets


def _is_class(feature: Any) -> bool:
    return type(feature).__name__ == "ClassLabel"


def _damaged(name: str, error: Exception) -> InputError:
    message = " ".join(str(error).split())[:200]
    return InputError(f"{name}: not a readable set: {type(error).__name__}: {message} (prepare it again)")


def _plain(value: Any) -> Any:
    """Python's own values: texts of bytes, lists of arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
