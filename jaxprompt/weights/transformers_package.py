"""transformers, imported quietly where a tokenizer is made."""

import os
from typing import Any


def transformers_package() -> Any:
    """The package, imported here since it takes seconds."""
    # It advises everyone without torch to install it, which jaxprompt never needs.
    advice = os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS")
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    try:
        import transformers
    finally:
        os.environ.pop("TRANSFORMERS_NO_ADVISORY_WARNINGS")
        if advice is not None:
            os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = advice
    return transformers
