"""A run's folder: what may be in it, and what its config says."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprompt import config as configs
from jaxprompt.config import MACHINE_KEYS, Config, load_config
from jaxprompt.data.sources import memory_reference
from jaxprompt.errors import InputError
from jaxprompt.experiment.rows import naming


def run_config(run_dir: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run folder; `overrides` as in `load_config`, of `MACHINE_KEYS` alone."""
    path = Path(run_dir) / "config.yaml"
    if not path.exists():
        raise InputError(f"{str(run_dir)!r} is not a run folder: it holds no config.yaml")
    for item in overrides:
        if item.partition("=")[0] not in MACHINE_KEYS:
            raise InputError(f"{item!r}: of a run that exists only {', '.join(MACHINE_KEYS)} can be set, as KEY=VALUE")
    return load_config(path, overrides)


def open_run(config: Config) -> Path:
    """The run folder, made if needed; refused when it holds another experiment."""
    run_dir = Path(config.run_dir or "runs") / (
        "" if config.run_dir else _digest(json.dumps(_what(config), sort_keys=True))
    )
    kept = run_dir / "config.yaml"
    if kept.exists():
        old, new = _what(configs.load_config(kept)), _what(config)
        for key in old:
            if old[key] != new[key] and not _one_file(key, old[key], new[key]):
                raise InputError(
                    f"run folder {str(run_dir)!r} holds another experiment ({key} is {old[key]!r} there, {new[key]!r} "
                    "here): name another run_dir, or delete the folder"
                )
    elif run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise InputError(f"run_dir {str(run_dir)!r} is not a run and not empty: name another folder")
    above = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"run_dir {str(run_dir)!r} cannot be made: {str(above)!r} is no folder to write in")
    return run_dir


def _plain(config: Config) -> dict:
    """The config as plain values; rows given in memory are replaced by a digest that stands for them."""
    kept = {}
    for name in ("train", "validation"):
        rows = getattr(config.data, name)
        if isinstance(rows, list):
            with naming(config, name):
                kept[name] = memory_reference(rows)
    data = config.data.model_copy(update=kept)
    return config.model_copy(update={"data": data}).model_dump(mode="json")


def _what(config: Config) -> dict[str, Any]:
    """All keys of a config but where it is kept, and where and how it is computed, with plain values."""
    flat = configs.flat(configs.load_config(_plain(config)))
    return {key: value for key, value in flat.items() if key not in ("run_dir", *configs.MACHINE_KEYS)}


def _one_file(key: str, *names: Any) -> bool:
    """Whether the values of a key spell the path of one file; what is in it has a fingerprint."""
    files = [Path(name) for name in names if key.startswith("data.") and isinstance(name, str)]
    return len(files) == len(names) and all(map(Path.exists, files)) and files[0].samefile(files[1])


def dumped(config: Config) -> str:
    return configs.dump(_plain(config))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
