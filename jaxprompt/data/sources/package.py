"""Files inside installed packages."""

from jaxprompt.data.sources.base import ListSource, Reading
from jaxprompt.data.sources.files import open_file
from jaxprompt.machine.packages import in_package


def open_package(reference: str, how: Reading) -> ListSource:
    """Opens `package:MODULE/PATH`; the package is not imported."""
    return ListSource(reference, list(open_file(in_package(reference), how)))
