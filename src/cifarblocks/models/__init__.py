"""The classifiers: importing this package registers every named one."""

from cifarblocks.models import resnet, simple
from cifarblocks.models.classifier import Classifier, FeatureInfo

__all__ = ["Classifier", "FeatureInfo", "resnet", "simple"]
