"""The classifiers: importing this package registers every named one."""

from cifarblocks.models import (
    coatnet,
    convnext,
    cspnet,
    ghostnet,
    hornet,
    lsknet,
    mixer,
    mscan,
    resnest,
    resnet,
    resnext,
    simple,
    vit,
    wide_resnet,
)
from cifarblocks.models.classifier import Backbone, Classifier, FeatureInfo

__all__ = [
    "Backbone",
    "Classifier",
    "FeatureInfo",
    "coatnet",
    "convnext",
    "cspnet",
    "ghostnet",
    "hornet",
    "lsknet",
    "mixer",
    "mscan",
    "resnest",
    "resnet",
    "resnext",
    "simple",
    "vit",
    "wide_resnet",
]
