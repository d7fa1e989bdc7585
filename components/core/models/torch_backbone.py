"""Published image networks as families: any channels and size of image, fewer maps on request, ImageNet weights where wanted.

The architectures are torchvision's and timm's own. They are made without storage, changed (channels, maps), and only then given weights,
so that a small variant never costs what the published one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from components.core.errors import SpecError
from components.core.imaging.augment import Augment
from components.core.models.family_options import read_options
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.models.torch_weights import Source, fill
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    import torch
    from torch import nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DIVIDE = (1, 2, 4, 8)


@dataclass(frozen=True)
class Backbone:
    """Options of every published network.

    Args:
        size: Pixels of the shorter side to which images are enlarged inside the network; 0: only as far as the architecture needs.
        divide: Maps and hidden units of every layer divided by this, 1 (as published), 2, 4 or 8: for small data sets and small machines.
        pretrained: Weights to start from: "" none, a weights name of the library, or the path of a .safetensors file with its layer names.
        body_rate: Share of the learning rate that all layers but the last get; 0 trains the last alone.
    """

    size: int = field(default=0, metadata={"low": 0, "high": 2048})
    divide: int = field(default=1, metadata={"low": 1, "high": 8})
    pretrained: str = ""
    body_rate: float = field(default=1.0, metadata={"low": 0, "high": 1})


@dataclass(frozen=True)
class Published:
    """One published network.

    Args:
        make: Scores -> the network, called where tensors have no storage.
        least: Pixels of the shorter side below which it cannot work.
        head: Name of its last layer.
        flat: Name of the layer that takes all places of the last map at once, where there is one; it is fitted to the image's size.
        source: Where its weights are.
        scale: Mean and standard deviation by which its weights expect each colour, in [0, 1].
    """

    make: Callable[[int], nn.Module]
    least: int
    head: str
    source: Source
    flat: str | None = None
    scale: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET


def build(spec: DiseaseSpec, family: Family, options: type[Backbone], published: Callable[[Any], Published]) -> TorchEstimator:
    """An untrained estimator; pre-trained weights are read when it is trained, not before.

    Args:
        options: The family's options.
        published: Options as read -> the network.

    Raises:
        SpecError: Options it does not have, inputs that are no images, weights that do not exist.
    """
    own, training, augment = read_options(family, options, Training, Augment)
    where, shape = f"{spec.name}: kind '{family.kind}'", spec.input.shape
    if len(shape) != 3:
        raise SpecError("this family takes images", where=where, got=f"shape {list(shape)}", allowed="[channels, height, width]")
    if own.divide not in DIVIDE:
        raise SpecError("not allowed", where=f"{where}: divide", got=own.divide, allowed=", ".join(map(str, DIVIDE)))
    architecture = published(own)
    if 0 < own.size < max(architecture.least, min(shape[1:])):
        allowed = f"0, or at least {max(architecture.least, min(shape[1:]))}"
        raise SpecError("images are not made smaller in the network", where=f"{where}: size", got=own.size, allowed=allowed)
    if own.pretrained:
        architecture.source.check(own.pretrained, where=f"{where}: pretrained")
        if own.divide != 1:
            raise SpecError("pre-trained weights are of the published maps", where=f"{where}: divide", got=own.divide, allowed=1)

    def pretrain(module: nn.Module, _: object) -> None:
        fill(module.get_submodule("body"), architecture.source.read(own.pretrained, where=f"{where}: pretrained"), where=f"{where}: pretrained")

    return TorchEstimator(
        spec,
        family,
        lambda: network(shape, spec.n_scores, architecture, own),
        training=training,
        augment=augment,
        pretrain=pretrain if own.pretrained else None,
        share=lambda name: 1.0 if name.startswith(f"body.{architecture.head}.") else own.body_rate,
    )


def network(shape: tuple[int, ...], n_scores: int, architecture: Published, options: Backbone) -> nn.Module:
    """(N, *shape) in [0, 1] -> (N, n_scores) logits, with He's random start."""
    import torch
    from torch import nn

    body, (rows, columns) = outline(shape, n_scores, architecture, options)
    body.to_empty(device="cpu")
    _start(body, body.get_submodule(architecture.head))
    means, deviations = architecture.scale
    if shape[0] != 3:  # no colours: one mean and deviation for all channels
        means, deviations = [sum(means) / 3] * shape[0], [sum(deviations) / 3] * shape[0]

    class Scaled(nn.Module):
        mean: torch.Tensor
        deviation: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.register_buffer("mean", torch.tensor(means).reshape(1, -1, 1, 1), persistent=False)
            self.register_buffer("deviation", torch.tensor(deviations).reshape(1, -1, 1, 1), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if tuple(shape[1:]) != (rows, columns):
                x = nn.functional.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=False)
            return self.body((x - self.mean) / self.deviation)

    return Scaled()


def outline(shape: tuple[int, ...], n_scores: int, architecture: Published, options: Backbone) -> tuple[nn.Module, tuple[int, int]]:
    """The network without storage, and the pixels that it sees after enlargement."""
    import torch
    from torch import nn

    wanted, side = max(options.size, architecture.least), min(shape[1:])
    rows, columns = (max(wanted, round(n * wanted / side)) if side < wanted else n for n in shape[1:])
    with torch.device("meta"):
        body = architecture.make(n_scores)
        _resize(body, body.get_submodule(architecture.head), shape[0], options.divide)
        if architecture.flat:
            # Averaging to a fixed grid repeats values on smaller images, and has no ONNX operation.
            body.add_module("avgpool", nn.Identity())
            positions = body.get_submodule("features")(torch.zeros(1, shape[0], rows, columns)).flatten(1).shape[1]
            flat = body.get_submodule(architecture.flat)
            assert isinstance(flat, nn.Linear)
            flat.in_features, flat.weight = positions, nn.Parameter(torch.empty(flat.out_features, positions))
    return body, (rows, columns)


def _resize(body: nn.Module, head: nn.Module, channels: int, divide: int) -> None:
    """Other input channels, and every layer's maps divided; all counts of these networks are multiples of 8."""
    import torch
    from torch import nn

    first = True
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            module.in_channels = channels if first else module.in_channels // divide
            module.out_channels //= divide
            module.weight = nn.Parameter(torch.empty(module.out_channels, module.in_channels, *module.kernel_size))
            module.bias = nn.Parameter(torch.empty(module.out_channels)) if module.bias is not None else None
            first = False
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features //= divide
            module.weight, module.bias = (nn.Parameter(torch.empty(module.num_features)) for _ in range(2))
            module.running_mean, module.running_var = (torch.empty(module.num_features) for _ in range(2))
        elif isinstance(module, nn.Linear):
            module.in_features //= divide
            module.out_features = module.out_features if module is head else module.out_features // divide
            module.weight = nn.Parameter(torch.empty(module.out_features, module.in_features))
            module.bias = nn.Parameter(torch.empty(module.out_features))


def _start(body: nn.Module, head: nn.Module) -> None:
    """Weights at random: He et al., ICCV 2015, for what a ReLU follows; small ones for the scores, so that training starts undecided."""
    from torch import nn

    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            if module is head:
                nn.init.normal_(module.weight, std=0.1 / math.sqrt(module.weight[0].numel()))
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def torchvision(name: str, **settings: Any) -> Callable[[int], nn.Module]:
    """Scores -> torchvision's network `name`, without weights."""

    def make(n_scores: int) -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, num_classes=n_scores, **settings)

    return make
