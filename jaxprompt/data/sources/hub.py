"""Sets of Hugging Face's `datasets`, where that is installed."""

import re
from pathlib import Path
from typing import Any

from jaxprompt.data.sources.base import Reading, Row, Source, file_digest
from jaxprompt.errors import InputError, did_you_mean, listed

_REFERENCE = re.compile(r"hf:(?P<name>[^:]+)(:(?P<config>[^:]+))?(:(?P<split>[^:]+))?")


class HubSource(Source):
    """A split of a set, whose rows stay in its Arrow files."""

    def __init__(self, name: str, rows: Any):
        self.name, self._rows = name, rows
        features = {column: getattr(feature, "names", None) for column, feature in rows.features.items()}
        self.label_names = {column: tuple(names) for column, names in features.items() if names} or None
        if not len(rows):
            raise InputError(f"{name}: no rows (give at least one)")

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, number: int) -> Row:
        return self._rows[number]

    @property
    def fingerprint(self) -> str:
        files = sorted(Path(file["filename"]) for file in self._rows.cache_files)
        return file_digest(files, self._rows._fingerprint if not files else "")


def open_hub(reference: str, how: Reading) -> HubSource:
    """Opens `hf:REPOSITORY:SPLIT` or `hf:REPOSITORY:CONFIG:SPLIT` of the hub, or `hf:FOLDER:SPLIT` that `save_to_disk` wrote.

    Raises InputError where `datasets` is not installed, or finds no such set, config or split.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None or (found["split"] is None and found["config"] is None):
        raise InputError(f"{reference}: expected hf:REPOSITORY:SPLIT, hf:REPOSITORY:CONFIG:SPLIT or hf:FOLDER:SPLIT")
    # One part behind the name is the split.
    config, split = (found["config"], found["split"]) if found["split"] else (None, found["config"])
    try:
        import datasets
    except ImportError:
        raise InputError(f"{reference}: reading it needs datasets (pip install 'jaxprompt[hf]')") from None
    try:
        if found["name"].startswith(("/", ".", "~")):
            saved = datasets.load_from_disk(str(Path(found["name"]).expanduser()))
        else:
            # All splits, so that one that is not there is told from those that are. It runs no code of the repository.
            saved = datasets.load_dataset(found["name"], config)
    except Exception as error:  # of the network, the disk or the set itself
        message = " ".join(str(error).split())[:200]
        raise InputError(
            f"{reference}: cannot be loaded: {type(error).__name__}: {message} (check the name, or the network)"
        ) from None
    if isinstance(saved, datasets.Dataset):
        saved = {"train": saved}
    if split not in saved:
        raise InputError(f"{reference}: no split {split!r}{did_you_mean(split, saved) or f' (of {listed(saved)})'}")
    return HubSource(reference, saved[split])
