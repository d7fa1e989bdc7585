"""Inception-ResNet v2 (Szegedy et al., AAAI 2017), timm's: 55,843,464 weights for 1000 classes at 299 pixels.

The survey's system used FaceNet's network, which is Inception-ResNet v1: the same blocks with fewer maps. v2 stands in for it, as the
one of the two whose ImageNet weights are kept by a library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from components.core.models.torch_backbone import HALVES, Backbone, Published
from components.core.models.torch_backbone import build as build_backbone
from components.core.models.torch_fit import TorchEstimator
from components.core.models.torch_weights import Source
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture(Backbone):
    """Args:
    dropout: Before the scores.
    """

    dropout: float = field(default=0.2, metadata={"low": 0, "high": 0.95})


def published(options: Architecture) -> Published:
    def make(n_scores: int) -> nn.Module:
        import timm

        return timm.create_model("inception_resnet_v2", pretrained=False, num_classes=n_scores, drop_rate=options.dropout)

    return Published(make, least=75, head="classif", source=Source("timm", "inception_resnet_v2"), scale=HALVES)


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """See `torch_backbone.build`."""
    return build_backbone(spec, family, Architecture, published)
