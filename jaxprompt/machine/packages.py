"""Files inside installed packages."""

import importlib.util
from pathlib import Path

from jaxprompt.errors import InputError, did_you_mean


def in_package(text: str) -> Path:
    """Returns the file or folder that `package:module/path` names, found without importing (running) the package.

    Raises:
      InputError: the package is not installed, or holds no such file.
    """
    module, _, inside = text.removeprefix("package:").partition("/")
    if not module.isidentifier():
        raise InputError(f"{text!r}: expected 'package:module/path', with the module's top-level name (correct it)")
    try:
        # find_spec of a top-level name locates the package and does not execute it.
        spec = importlib.util.find_spec(module)
    except ValueError:  # __main__, which was never looked for
        spec = None
    if spec is None:
        raise InputError(f"{text!r} needs the package {module!r}: pip install --no-deps {module.replace('_', '-')}")
    if not spec.submodule_search_locations:
        raise InputError(f"{text!r}: {module!r} is a module and holds no files (name a package)")
    roots = [Path(location).resolve() for location in spec.submodule_search_locations]
    for root in roots:
        try:
            found = (root / inside).resolve()
            if found.is_relative_to(root) and found.exists():
                return found
        except (OSError, ValueError, RuntimeError):  # too long a name, a NUL in it, a loop of links
            continue
    raise InputError(f"{text!r}: the package {module!r} is installed but holds no {inside!r}{_nearest(roots, inside)}")


def _nearest(roots: list[Path], inside: str) -> str:
    """What the deepest folder on the way to a path that is not there holds, as a remedy."""
    folder = roots[0]
    for part in inside.split("/"):
        if not folder.is_dir():
            break
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(("_", ".")))
        if part not in names:
            return did_you_mean(part, names)
        folder = folder / part
    return " (check the path)"
