"""What a model reference names: a folder or a GGUF file, on disk, on the hub or inside an installed package."""

import re
from pathlib import Path

from jaxprompt.errors import InputError
from jaxprompt.machine.packages import in_package
from jaxprompt.weights.files import how_to_convert

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Configs, safetensors weights and tokenizer files; never pickled weights or code.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
# The original, differently named copies that some repositories keep beside the Hugging Face files.
_HUB_SKIPPED = ["original/*", "consolidated*"]
_NEEDED = "name the folder that holds config.json and model.safetensors, or a .gguf file"


def is_gguf(path: Path) -> bool:
    """Whether a file is named as GGUF files are."""
    return path.suffix.lower() == ".gguf"


def resolve(ref: str | Path) -> Path:
    """Returns the local folder, or the GGUF file, of a model reference.

    Args:
      ref: a folder or a .gguf file; a hub id `org/name`, downloaded to the Hugging Face cache, of safetensors files or else of
        one GGUF file; or `package:module/path`, either inside an installed package, found without importing (running) it.

    Raises:
      InputError: there is no such folder or package, or the download failed.
    """
    text = str(ref)
    if text.startswith("package:"):
        found = in_package(text)
        if not found.is_dir() and not is_gguf(found):
            raise InputError(f"model {text!r} is a file: {_NEEDED}")
        return found
    try:
        folder = Path(ref).expanduser()
        if folder.is_dir() or (folder.is_file() and is_gguf(folder)):
            return folder
        what = "a file" if folder.exists() else "a link that leads nowhere" if folder.is_symlink() else None
    except (OSError, RuntimeError, ValueError) as error:  # No permission, too long for a name, a user without a home.
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"model {text[:200]!r} cannot be looked for ({reason}): give a folder or a hub id") from error
    if what is not None:
        raise InputError(f"model {text!r} is {what}: {_NEEDED}")
    if isinstance(ref, str) and _HUB_ID.fullmatch(ref):
        return _from_hub(ref)
    raise InputError(
        f"no model folder {text!r}: give a folder, a .gguf file, a hub id like 'org/name', or "
        "'package:module/path/in/package'"
    )


def _from_hub(repo: str) -> Path:
    # Imported here: it takes longer than all of jaxprompt.
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

    try:
        folder = Path(snapshot_download(repo, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_SKIPPED))
        if not any(folder.glob("*.safetensors")):
            packed = sorted(name for name in list_repo_files(repo) if is_gguf(Path(name)))
            if len(packed) == 1:
                return Path(hf_hub_download(repo, packed[0]))
            if packed:
                raise InputError(
                    f"model {repo!r} has several GGUF files ({', '.join(packed)}): download one and name it"
                )
    except InputError:
        raise
    except Exception as error:  # The hub client raises errors of its HTTP library, of the OS and of its own.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"model {repo!r} is no local folder and could not be downloaded from the Hugging Face hub: {reason}: "
            "check its name and the connection, or name a folder"
        ) from error
    if not any(folder.glob("*.safetensors")):
        here = repo.split("/")[1]
        raise InputError(
            f"model {repo!r} has no safetensors files on the hub, pickled weights at most, {how_to_convert(repo, here)}, "
            f"and name the folder {here!r}"
        )
    return folder
