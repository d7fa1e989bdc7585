"""AlexNet, in torchvision's one-tower form (Krizhevsky, arXiv:1404.5997): 61,100,840 weights for 1000 classes at 224 pixels."""

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
    dropout: Before each of the two hidden layers.
    """

    dropout: float = field(default=0.5, metadata={"low": 0, "high": 0.95})


def published(options: Architecture) -> Published:
    return Published(
        torchvision("alexnet", dropout=options.dropout), least=63, head="classifier.6", flat="classifier.1", source=Source("torchvision", "alexnet")
    )


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """See `torch_backbone.build`."""
    return build_backbone(spec, family, Architecture, published)
