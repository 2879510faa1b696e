"""The frozen pretrained model: what methods, the train step and users call."""

from jaxprompt.backbone.backbone import Backbone
from jaxprompt.backbone.load import begin_backbone, load_backbone, random_backbone

__all__ = ["Backbone", "begin_backbone", "load_backbone", "random_backbone"]
