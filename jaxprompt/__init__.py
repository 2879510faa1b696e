"""jaxprompt: prompts for frozen pretrained language models, learned in JAX."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxprompt.backbone import Backbone, load_backbone
    from jaxprompt.config import Config, load_config
    from jaxprompt.errors import InputError
    from jaxprompt.inference.generate import generate
    from jaxprompt.prompts import Prompt, load_prompt, save_prompt
    from jaxprompt.scoring.evaluate import make_eval_step
    from jaxprompt.scoring.forward import Forward
    from jaxprompt.training.loop import Result, train
    from jaxprompt.training.step import TrainState, init_state, make_train_step

# Each public name and its module. They load when first used, so that importing jaxprompt is quick and touches no
# device.
_HOMES = {
    "Backbone": "backbone",
    "Config": "config",
    "Forward": "scoring.forward",
    "InputError": "errors",
    "Prompt": "prompts",
    "Result": "training.loop",
    "TrainState": "training.step",
    "generate": "inference.generate",
    "init_state": "training.step",
    "load_backbone": "backbone",
    "load_config": "config",
    "load_prompt": "prompts",
    "make_eval_step": "scoring.evaluate",
    "make_train_step": "training.step",
    "save_prompt": "prompts",
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
