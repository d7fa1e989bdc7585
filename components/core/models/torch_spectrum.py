"""Spectra inside a network: what a family of worn sensors sees is how strongly it shakes at which frequency, not when.

The Fourier transform is a product with a matrix of cosines and one of sines, which every runtime has, so the exported model takes plain
samples. Values are those of the family contract: [0, 1] over `input.range`; a sinusoid's amplitude is then a share of that range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    import torch
    from torch import nn

FLOOR = 1e-6  # power of a sinusoid of 0.14 % of the range: below it is noise
DECADES = 6.0
AXES = 3


@dataclass(frozen=True)
class Front:
    """From a window to spectra.

    Args:
        frames: Equal parts that a window is cut into, the last one ending with it; each gets a spectrum of its own. Camps et al. take two:
            the window that is judged, and the one before it.
        overlap: Share of a frame that the next one repeats.
        spectrum: Of each `axis`, or of each `sensor`: the power of its three axes together, which turning the sensor on its place leaves.
        top_hz: Highest frequency that is kept; 0 keeps all.
        relative: Beside the spectra stands each one's mean level, and the spectra are what they are above it: gain then moves one number.
        gain: In training each window's strength is drawn anew: the standard deviation of its natural logarithm.
        turn: In training each sensor is turned about a random axis by up to this angle in degrees.
    """

    frames: int = field(default=2, metadata={"low": 1, "high": 256})
    overlap: float = field(default=0.0, metadata={"low": 0, "high": 0.9})
    spectrum: Literal["axis", "sensor"] = "axis"
    top_hz: float = field(default=0.0, metadata={"low": 0, "high": 5000})
    relative: bool = False
    gain: float = field(default=0.0, metadata={"low": 0, "high": 2})
    turn: float = field(default=0.0, metadata={"low": 0, "high": 180})


@dataclass(frozen=True)
class Layout:
    """Sizes that follow from a spec and its front end: (N, frames, channels, bins), each frame of `length` samples."""

    frames: int
    channels: int
    bins: int
    length: int
    hop: int
    rate: float


def layout(spec: DiseaseSpec, family: Family, front: Front) -> Layout:
    """Raises SpecError for inputs that are no windows, are too short, or have no whole sensors where `front` sums their axes."""
    where = f"{spec.name}: kind '{family.kind}'"
    if spec.input.layout != "window" or spec.input.rate_hz is None:
        raise SpecError("this family takes windows", where=where, got=f"layout '{spec.input.layout}'", allowed="window")
    channels, samples = spec.input.shape
    if channels % AXES and (front.spectrum == "sensor" or front.turn):
        raise SpecError("a sensor has three axes", where=f"{where}, options", got=f"{channels} channels", allowed='spectrum = "axis", turn = 0')
    length = int(samples / (1 + (front.frames - 1) * (1 - front.overlap)))
    hop = (samples - length) // (front.frames - 1) if front.frames > 1 else length
    if length < 8 or hop < 1:
        raise SpecError("frames too short", where=f"{where}, options.frames", got=f"{length} samples", allowed="at least 8: fewer frames")
    rate = spec.input.rate_hz
    bins = length // 2 if not front.top_hz else min(length // 2, int(front.top_hz * length / rate))
    if bins < 2:
        raise SpecError("no spectrum left", where=f"{where}, options.top_hz", got=front.top_hz, allowed=f"at least {2 * rate / length:g} Hz")
    return Layout(front.frames, channels // AXES if front.spectrum == "sensor" else channels, bins, length, hop, rate)


def spectra(front: Front, sizes: Layout) -> nn.Module:
    """(N, channels, samples) in [0, 1] -> (N, frames, channels', bins), about [0, 1]: the logarithm of the power, six decades of it.

    Bin k is the frequency (k + 1) * rate / length. A sinusoid of amplitude a (as a share of the range) has the power a^2 / 2 at its bin.
    With `relative`, one more bin in front holds the mean level.
    """
    import torch
    from torch import nn

    class Spectra(nn.Module):
        cosines: torch.Tensor
        sines: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            n = torch.arange(sizes.length, dtype=torch.float64)
            hann = torch.sin(math.pi * (n + 0.5) / sizes.length) ** 2
            angle = 2 * math.pi * n[:, None] * torch.arange(1, sizes.bins + 1, dtype=torch.float64) / sizes.length
            scale = math.sqrt(2) / hann.sum() * hann[:, None]
            # No part of the weights: they follow from the spec.
            self.register_buffer("cosines", (scale * torch.cos(angle)).float(), persistent=False)
            self.register_buffer("sines", (scale * torch.sin(angle)).float(), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x - 0.5
            if self.training:
                x = _worn_anew(x, front)
            first = x.shape[2] - sizes.length - (sizes.frames - 1) * sizes.hop
            cut = [x[:, :, first + k * sizes.hop : first + k * sizes.hop + sizes.length] for k in range(sizes.frames)]
            framed = torch.stack(cut, dim=1)
            framed = framed - framed.mean(dim=3, keepdim=True)
            power = torch.matmul(framed, self.cosines) ** 2 + torch.matmul(framed, self.sines) ** 2
            if front.spectrum == "sensor":
                power = power.unflatten(2, (sizes.channels, AXES)).sum(dim=3)
            level = torch.log10(power + FLOOR) / DECADES + 1
            if not front.relative:
                return level
            mean = level.mean(dim=3, keepdim=True)
            return torch.cat([mean, level - mean], dim=3)

    return Spectra()


def bins_of(front: Front, sizes: Layout) -> int:
    """Numbers in each spectrum that `spectra` gives."""
    return sizes.bins + (1 if front.relative else 0)


def _worn_anew(x: torch.Tensor, front: Front) -> torch.Tensor:
    """Windows (N, channels, samples) around 0 as other units, worn otherwise, would have given them."""
    import torch

    n, channels, _ = x.shape
    if front.gain:
        x = x * torch.exp(front.gain * torch.randn(n, 1, 1, device=x.device))
    if front.turn:
        axis = torch.nn.functional.normalize(torch.randn(n, channels // AXES, AXES, device=x.device), dim=2)
        angle = (torch.rand(n, channels // AXES, 1, device=x.device) * 2 - 1) * math.radians(front.turn)
        v = x.unflatten(1, (channels // AXES, AXES))
        k = axis[..., None]
        cos, sin = torch.cos(angle)[..., None], torch.sin(angle)[..., None]
        # Rodrigues' formula.
        v = v * cos + torch.linalg.cross(k.expand_as(v), v, dim=2) * sin + k * (k * v).sum(dim=2, keepdim=True) * (1 - cos)
        x = v.flatten(1, 2)
    return x
