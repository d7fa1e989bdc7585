"""VGG16 (Simonyan and Zisserman, ICLR 2015, configuration D): 138,357,544 weights for 1000 classes at 224 pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.core.models.torch_backbone import Backbone, Published, torchvision
from components.core.models.torch_backbone import build as build_backbone
from components.core.models.torch_fit import TorchEstimator
from components.core.models.torch_weights import Source
from components.core.spec import DiseaseSpec, Family


@dataclass(frozen=True)
class Architecture(Backbone):
    """Args:
    dropout: After each of the two hidden layers.
    batch_norm: Normalise after each convolution; not in the publication, but without it training from random weights is slow.
    """

    dropout: float = field(default=0.5, metadata={"low": 0, "high": 0.95})
    batch_norm: bool = False


def published(options: Architecture) -> Published:
    name = "vgg16_bn" if options.batch_norm else "vgg16"
    make = torchvision(name, dropout=options.dropout, init_weights=False)
    return Published(make, least=32, head="classifier.6", flat="classifier.0", source=Source("torchvision", name))


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """See `torch_backbone.build`."""
    return build_backbone(spec, family, Architecture, published)
