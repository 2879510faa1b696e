"""A run's folder: what may be in it, and whether what is there belongs to its config."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprompt import config as configs
from jaxprompt.config import USE_KEYS, Config, load_config
from jaxprompt.config.population import MEMBERS, members_of
from jaxprompt.data.sources import memory_reference, names_files
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import make_objective, soft_length, turns_of
from jaxprompt.experiment.rows import naming
from jaxprompt.machine.files import is_temporary, writing
from jaxprompt.machine.lock import LOCK, locked
from jaxprompt.machine.processes import is_first
from jaxprompt.methods import fills_slots, parts_of
from jaxprompt.prompts import FILE_NAME, Prompt, load_prompt, shown_path
from jaxprompt.reports.records import read_records
from jaxprompt.text.values import shown

CONFIG, METRICS, RESULT, CHECKPOINTS = "config.yaml", "metrics.jsonl", "result.json", "checkpoints"
# What is computed ahead of the prompt, while the run is under way.
CACHE = "ahead"


def is_run(source: str) -> bool:
    """Whether a name means a run's folder, or what is left of one, and not a model."""
    return any(_is_there(Path(source) / name) for name in (CONFIG, FILE_NAME))


def run_config(run_dir: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run folder; `overrides` as in `load_config`, of `USE_KEYS` alone."""
    path = Path(run_dir) / CONFIG
    if not _is_there(path):
        raise InputError(f"{str(run_dir)!r} is not a run folder: it holds no {CONFIG}")
    for item in overrides:
        if item.partition("=")[0] not in USE_KEYS:
            raise InputError(f"{item!r}: of a run that exists only {', '.join(USE_KEYS)} can be set, as KEY=VALUE")
    return load_config(path, overrides)


def read_run(run_dir: str | Path, overrides: Sequence[str] = ()) -> tuple[Config, Prompt]:
    """The config of a run folder, as in `run_config`, and its best prompt; of a population's, those of its best member.

    Raises InputError when the folder is no finished run, or the prompt is not of this config.
    """
    return best_of(run_config(run_dir, overrides), run_dir, overrides)


def best_of(config: Config, run_dir: str | Path, overrides: Sequence[str] = ()) -> tuple[Config, Prompt]:
    """As `read_run`, of a folder whose config is read."""
    if config.population:
        best = (finished(Path(run_dir)) or {}).get("best_member")
        if not isinstance(best, str):
            raise InputError(f"{str(run_dir)!r} is a population that is not finished: name one of its {MEMBERS}/")
        return read_run(Path(run_dir) / MEMBERS / best, overrides)
    prompt = load_prompt(run_dir)
    _check_prompt(prompt, config, run_dir)
    return config, prompt


def member_folders(run_dir: str | Path) -> list[Path]:
    """The run folders of a population's members that were not given up; of another run, its own."""
    result = finished(Path(run_dir))
    members = result.get("members") if isinstance(result, dict) else None
    return [Path(run_dir) / MEMBERS / name for name in members] if members else [Path(run_dir)]


def open_run(config: Config) -> Path:
    """The folder of a config's run, which need not exist yet. Nothing is written.

    Raises InputError when the folder holds another experiment, or anything that this one would not have written.
    """
    run_dir = Path(config.run_dir or "runs") / (
        "" if config.run_dir else _digest(json.dumps(_what(config), sort_keys=True))
    )
    with _looking_at(run_dir):
        if _is_there(run_dir / CONFIG):
            _check_same(config, run_dir)
            _check_contents(config, run_dir)
        elif _is_there(run_dir) and (not run_dir.is_dir() or not all(map(_is_left, run_dir.iterdir()))):
            raise InputError(f"run_dir {str(run_dir)!r} is not a run and not empty: name another folder")
        above = next(path for path in (run_dir, *run_dir.absolute().parents) if _is_there(path))
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"run_dir {str(run_dir)!r} cannot be made: {str(above)!r} is no folder to write in")
    return run_dir


@contextlib.contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Keeps other processes from writing a run's folder, those of its members too, and removes what a killed one left there.

    A run that is refused before it has a config leaves nothing. Of several processes of one run the first does so, and it
    alone writes. Raises InputError as `locked`.
    """
    if not is_first():
        yield
        return
    with locked(run_dir):
        for left in filter(is_temporary, run_dir.rglob(".*")):
            with writing(left):
                left.unlink(missing_ok=True)
        try:
            yield
        finally:
            if not (run_dir / CONFIG).exists():
                shutil.rmtree(run_dir / CACHE, ignore_errors=True)


def _is_left(path: Path) -> bool:
    """Whether a run that ended before it had a config can have left it."""
    return path.name in (LOCK, CACHE) or is_temporary(path)


@contextlib.contextmanager
def _looking_at(path: Path) -> Iterator[None]:
    """Raises InputError for a name that no path can have, or one that the system lets nobody look at."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a ValueError: a NUL, or half a surrogate pair
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shown_path(path)} cannot be read ({reason}): name another folder") from None


def _is_there(path: Path) -> bool:
    """Whether there is such a path; raises InputError as `_looking_at`."""
    with _looking_at(path):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def _check_same(config: Config, run_dir: Path) -> None:
    """Raises InputError when the folder was made by another config; more steps may be asked for, where those before stay."""
    there = configs.load_config(run_dir / CONFIG)
    old, new = _what(there), _what(config)
    for key in old:
        if old[key] == new[key] or _one_file(key, old[key], new[key]):
            continue
        reason = ""
        if key == "train.steps" and new[key] > old[key]:
            reason = _why_no_more(config, there.train.steps)
            if not reason:
                continue
        raise InputError(
            f"run folder {str(run_dir)!r} holds another experiment ({key} is {old[key]!r} there, {new[key]!r} "
            f"here{reason}): name another run_dir, or delete the folder"
        )


def _why_no_more(config: Config, steps: int) -> str:
    """Why a run of so many steps would have learned otherwise, had it been one of more; empty: it would not."""
    optimizer = config.optimizer
    schedules = {optimizer.schedule, *(config.population or {}).get("optimizer.schedule", ())}
    if schedules != {"constant"}:
        schedule = next(name for name in sorted(schedules) if name != "constant")
        return f", and optimizer.schedule {schedule} ends with the steps"
    if max(optimizer.warmup_steps, *(config.population or {}).get("optimizer.warmup_steps", (0,))) > steps:
        return f", and the {steps} steps were warm-up"
    return ""


def _check_contents(config: Config, run_dir: Path) -> None:
    """Raises InputError for what the run that made the folder cannot have left there, however it ended."""
    remedy = "move it away, or name another run_dir"
    for name in (METRICS, RESULT, FILE_NAME, CHECKPOINTS):
        path = run_dir / name
        if _is_there(path) and (not path.is_dir() if name == CHECKPOINTS else not path.is_file()):
            raise InputError(f"{str(path)!r} is no {'folder' if name == CHECKPOINTS else 'file'}: {remedy}")
    read_records(run_dir / METRICS)
    if _is_there(run_dir / RESULT) and not _is_result((run_dir / RESULT).read_bytes()):
        raise InputError(f"{str(run_dir / RESULT)!r} is not the result of a run: {remedy}")
    for name, member in members_of(config, run_dir).items() if config.population else ():
        _check_contents(member, run_dir / MEMBERS / name)
    if _is_there(run_dir / FILE_NAME) and not config.population:
        _check_prompt(load_prompt(run_dir), config, run_dir)


def finished(run_dir: Path) -> dict[str, Any] | None:
    """The result of a run that was finished; None: it was not, or a kill cut what it wrote."""
    try:
        return json.loads((run_dir / RESULT).read_bytes())
    except (OSError, ValueError):
        return None


def _is_result(data: bytes) -> bool:
    """Whether a run wrote it, in whole or in part: a kill may have cut it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data[:1] in (b"", b"{")
    return isinstance(value, dict) and "step" in value


def _check_prompt(prompt: Prompt, config: Config, run_dir: str | Path) -> None:
    """Raises InputError unless a prompt is of the kind and the sizes that a run of the config writes."""

    def agree(what: str, there: Any, here: Any) -> None:
        if there != here:
            raise InputError(
                f"{FILE_NAME} in {str(run_dir)!r} is not the one that the run wrote ({what} is {shown(there)}, by "
                f"{CONFIG} {shown(here)}): put that back"
            )

    info = prompt.info
    agree("its method", info.get("method"), config.method.name)
    if config.chat is None:
        agree("its template", info.get("template"), config.template)
    else:
        agree("its chat", info.get("chat"), turns_of(config))
    there, here = info.get("objective") or {}, config.objective.model_dump(mode="json")
    # An option that only one of two releases has says nothing.
    for key in ("type", *(there.keys() & here.keys())):
        agree(f"its objective.{key}", there.get(key), here[key])
    if "labels" not in info:
        agree("its labels", None, "a list")
    try:
        objective = make_objective(config, info["labels"])
    except InputError as error:
        raise InputError(
            f"{FILE_NAME} in {str(run_dir)!r} is not the one that the run wrote ({error}): put that back"
        ) from None
    agree("its labels", info["labels"], list(objective.label_names))
    fills = fills_slots(config.method)
    rows = soft_length(config) if fills else 0
    agree("the number of its soft rows", 0 if prompt.soft is None else len(prompt.soft), rows)
    lengths = {part.length for part in parts_of(config.method) if hasattr(part, "length")}
    both = (prompt.prefix_lengths, lengths)
    agree("the length of its prefix", *(sorted(of) if len(of) > 1 else next(iter(of), 0) for of in both))
    if prompt.prefix is not None and prompt.prefix.length:
        agree("its prefix_start", prompt.prefix.length, prompt.prefix.keys.shape[1])
    width = prompt.head["weight"].shape[1] if prompt.head else 1
    head = jax.eval_shape(partial(objective.init, width)).get("head", {})
    agree("its head", *({name: np.shape(array) for name, array in arrays.items()} for arrays in (prompt.head, head)))


def _plain(config: Config) -> dict:
    """The config as plain values; rows given in memory are replaced by a digest that stands for them."""
    kept = {}
    for name in ("train", "validation"):
        rows = getattr(config.data, name)
        if isinstance(rows, list) and not names_files(rows):
            with naming(config, name):
                kept[name] = memory_reference(rows)
    data = config.data.model_copy(update=kept)
    tree = config.model_copy(update={"data": data}).model_dump(mode="json")
    if config.tasks is not None:
        parts = {task: _plain(part) for task, part in configs.task_configs(config).items()}
        tree["tasks"] = {task: {key: part[key] for key in config.tasks[task]} for task, part in parts.items()}
    return tree


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
