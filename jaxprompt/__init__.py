"""jaxprompt: prompts for frozen pretrained language models, learned in JAX."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxprompt.backbone import Backbone, load_backbone
    from jaxprompt.config import Config, load_config
    from jaxprompt.errors import InputError
    from jaxprompt.generation import generate
    from jaxprompt.prompt import Prompt, load_prompt, save_prompt
    from jaxprompt.training.loop import Result, train
    from jaxprompt.training.step import Forward, TrainState, init_state, make_eval_step, make_train_step

# Each public name and its module. They load when first used, so that importing jaxprompt is quick and touches no
# device.
_HOMES = {
    "Backbone": "backbone",
    "Config": "config",
    "Forward": "training.step",
    "InputError": "errors",
    "Prompt": "prompt",
    "Result": "training.loop",
    "TrainState": "training.step",
    "generate": "generation",
    "init_state": "training.step",
    "load_backbone": "backbone",
    "load_config": "config",
    "load_prompt": "prompt",
    "make_eval_step": "training.step",
    "make_train_step": "training.step",
    "save_prompt": "prompt",
    "train": "training.loop",
}

__all__ = [
    "Backbone",
    "Config",
    "Forward",
    "InputError",
    "Prompt",
    "Result",
    "TrainState",
    "__version__",
    "generate",
    "init_state",
    "load_backbone",
    "load_config",
    "load_prompt",
    "make_eval_step",
    "make_train_step",
    "save_prompt",
    "train",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxprompt' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"jaxprompt.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
