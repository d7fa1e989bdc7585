"""Residual networks (He et al., CVPR 2016) of 18 to 152 layers as published, and one of 10 for small images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from components.core.errors import SpecError
from components.core.models.torch_backbone import Backbone, Published, torchvision
from components.core.models.torch_backbone import build as build_backbone
from components.core.models.torch_fit import TorchEstimator
from components.core.models.torch_weights import Source
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    from torch import nn

DEPTHS = (10, 18, 34, 50, 101, 152)


@dataclass(frozen=True)
class Architecture(Backbone):
    """Args:
    depth: Layers. 10 has one basic block per stage, 16 to 128 maps, and starts at the image's own resolution: for 8 to 64 pixels.
    """

    depth: int = field(default=18, metadata={"low": 10, "high": 152})


def published(options: Architecture) -> Published:
    if options.depth == 10:
        return Published(_small, least=8, head="fc", source=Source("none"))
    if options.depth not in DEPTHS:
        raise SpecError("not allowed", where="families: kind 'resnet', options.depth", got=options.depth, allowed=", ".join(map(str, DEPTHS)))
    name = f"resnet{options.depth}"
    return Published(torchvision(name), least=32, head="fc", source=Source("torchvision", name))


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """See `torch_backbone.build`."""
    return build_backbone(spec, family, Architecture, published)


def _small(n_scores: int) -> nn.Module:
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    before = 16
    for maps in (16, 32, 64, 128):
        stride = 1 if maps == before else 2
        shortcut = nn.Sequential(nn.Conv2d(before, maps, 1, stride, bias=False), nn.BatchNorm2d(maps)) if stride == 2 else None
        layers.append(BasicBlock(before, maps, stride, shortcut))
        before = maps
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.add_module("fc", nn.Linear(before, n_scores))
    return network
