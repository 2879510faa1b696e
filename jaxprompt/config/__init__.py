"""The experiment as a user writes it."""

from jaxprompt.config.keys import dump, flat, help_text, keys, load_config, task_configs, yaml_value
from jaxprompt.config.sections import MACHINE_KEYS, USE_KEYS, Config, OptimizerOptions

__all__ = [
    "MACHINE_KEYS",
    "USE_KEYS",
    "Config",
    "OptimizerOptions",
    "dump",
    "flat",
    "help_text",
    "keys",
    "load_config",
    "task_configs",
    "yaml_value",
]
