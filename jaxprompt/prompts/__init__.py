"""The prompt as a value and as files."""

from jaxprompt.prompts.files import FILE_NAME, load_prompt, save_prompt, shown_path
from jaxprompt.prompts.prompt import Prompt

__all__ = ["FILE_NAME", "Prompt", "load_prompt", "save_prompt", "shown_path"]
