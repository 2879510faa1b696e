"""Files inside installed packages."""

from collections.abc import Sequence

from jaxprompt.data.sources.base import ListSource
from jaxprompt.data.sources.files import open_file
from jaxprompt.machine.packages import in_package


def open_package(reference: str, columns: Sequence[str] | None = None) -> ListSource:
    """Opens `package:MODULE/PATH`; the package is not imported."""
    return ListSource(reference, list(open_file(in_package(reference), columns)))
