"""The prompt as a value and as files."""

from jaxprompt.prompts.prompt import FILE_NAME, Prompt, load_prompt, save_prompt

__all__ = ["FILE_NAME", "Prompt", "load_prompt", "save_prompt"]
