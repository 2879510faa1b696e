"""The frozen pretrained model: what methods, the train step and users call."""

from jaxprompt.backbone.backbone import Backbone
from jaxprompt.backbone.load import load_backbone, random_backbone

__all__ = ["Backbone", "load_backbone", "random_backbone"]
