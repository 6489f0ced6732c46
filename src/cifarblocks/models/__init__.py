"""The classifiers: importing this package registers every named one, and has it as an attribute."""

from cifarblocks.models.ablations import *
from cifarblocks.models.classifier import Backbone as Backbone
from cifarblocks.models.classifier import Classifier as Classifier
from cifarblocks.models.classifier import FeatureInfo as FeatureInfo
from cifarblocks.models.coatnet import *
from cifarblocks.models.convnext import *
from cifarblocks.models.cspnet import *
from cifarblocks.models.ghostnet import *
from cifarblocks.models.hornet import *
from cifarblocks.models.lsknet import *
from cifarblocks.models.mixer import *
from cifarblocks.models.mscan import *
from cifarblocks.models.resnest import *
from cifarblocks.models.resnet import *
from cifarblocks.models.resnext import *
from cifarblocks.models.simple import *
from cifarblocks.models.vit import *
from cifarblocks.models.wide_resnet import *
