"""Inception v3 (Szegedy et al., CVPR 2016) for images from 75 pixels, 299 as published, without the auxiliary head:
23,834,568 weights for 1000 classes."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.core.models.torch_backbone import HALVES, Backbone, Published, torchvision
from components.core.models.torch_backbone import build as build_backbone
from components.core.models.torch_fit import TorchEstimator
from components.core.models.torch_weights import Source
from components.core.spec import DiseaseSpec, Family


@dataclass(frozen=True)
class Architecture(Backbone):
    """Args:
    dropout: Before the scores.
    """

    dropout: float = field(default=0.5, metadata={"low": 0, "high": 0.95})


def published(options: Architecture) -> Published:
    make = torchvision("inception_v3", dropout=options.dropout, aux_logits=False, init_weights=False)
    return Published(make, least=75, head="fc", source=Source("torchvision", "inception_v3"), scale=HALVES)


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """See `torch_backbone.build`."""
    return build_backbone(spec, family, Architecture, published)
