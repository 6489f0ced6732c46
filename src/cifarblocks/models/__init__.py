"""The classifiers: importing this package registers every named one, and has it as an attribute."""

from collections.abc import Callable

from torch import nn

from cifarblocks.models import ablations as ablations
from cifarblocks.models import coatnet as coatnet
from cifarblocks.models import convnext as convnext
from cifarblocks.models import cspnet as cspnet
from cifarblocks.models import ghostnet as ghostnet
from cifarblocks.models import hornet as hornet
from cifarblocks.models import lsknet as lsknet
from cifarblocks.models import mixer as mixer
from cifarblocks.models import mscan as mscan
from cifarblocks.models import resnest as resnest
from cifarblocks.models import resnet as resnet
from cifarblocks.models import resnext as resnext
from cifarblocks.models import simple as simple
from cifarblocks.models import vit as vit
from cifarblocks.models import wide_resnet as wide_resnet
from cifarblocks.models.classifier import Backbone as Backbone
from cifarblocks.models.classifier import Classifier as Classifier
from cifarblocks.models.classifier import FeatureInfo as FeatureInfo
from cifarblocks.registry import find_model, list_models


def __getattr__(name: str) -> Callable[..., nn.Module]:
    """Find a named classifier, for `help(cifarblocks.models.resnet_20)`."""
    try:
        return find_model(name)
    except ValueError as error:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: {error}") from None


def __dir__() -> list[str]:
    return [*globals(), *list_models()]
