"""Training samples as other devices would have given them: the physics of an acquisition with random strengths, new for every sample and epoch.

What differs between devices is gain, response curve, evenness of the light, sharpness, noise, and how a sensor sits: a network that has met all
strengths of them leans on none. The operations are those of `components/core/acquisition_changes.py`, drawn together and mild, on a batch at once.
Drawn once from a seeded generator, then applied; strength 1 is about what two makers differ by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KERNEL = (1.0, 4.0, 6.0, 4.0, 1.0)


def jittered(x: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """A batch with another acquisition for each sample.

    Args:
        x: (n, C, T) windows, (n, C, H, W) pictures or (n, C, D, H, W) volumes, in [0, 1].
        strength: 0 changes nothing.
        generator: On the CPU, so that a seed gives the same draws wherever the network trains.

    Returns:
        The shape of x, in [0, 1].
    """
    if not strength:
        return x
    return _windows(x, strength, generator) if x.ndim == 3 else _pictures(x, strength, generator)


def _pictures(x: torch.Tensor, s: float, generator: torch.Generator) -> torch.Tensor:
    """Response curve, gain of each channel, uneven light, sharpness, noise. Black stays black but for the noise."""
    import torch

    n, channels, axes = x.shape[0], x.shape[1], x.ndim - 2

    def normal(*size: int) -> torch.Tensor:
        drawn = torch.randn(*size, generator=generator)
        return drawn.to(x.device).reshape(*size, *[1] * (x.ndim - len(size)))

    def uniform() -> torch.Tensor:
        return torch.rand(n, generator=generator).to(x.device).reshape(n, *[1] * (x.ndim - 1))

    curve = torch.exp(s * (0.2 * normal(n, 1) + 0.1 * normal(n, channels)))
    x = x.clamp(1e-4, 1) ** curve
    gain = torch.exp(s * (0.15 * normal(n, 1) + 0.12 * normal(n, channels)))
    light = torch.ones_like(x[:, :1])
    radius = torch.zeros_like(light)
    for axis in range(axes):
        place = torch.linspace(-1, 1, x.shape[2 + axis], device=x.device).reshape(*[1] * (2 + axis), -1, *[1] * (axes - 1 - axis))
        light = light + s * 0.12 * normal(n, 1) * place
        radius = radius + place**2 / axes
    x = x * (gain * (light - s * 0.35 * uniform() * radius).clamp(min=0.2))
    soft = _smoothed(x)
    x = x + (s * (2 * uniform() - 1.3)).clamp(-1, 1) * (x - soft)  # to the left of 0 softer: a new device is more often worse
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    return (x + s * 0.04 * uniform() ** 2 * noise).clamp(0, 1)


def _windows(x: torch.Tensor, s: float, generator: torch.Generator) -> torch.Tensor:
    """Gain, zero error and noise of the sensors; readings beyond a level are cut off. 0.5 stands for no acceleration, 1 for 4 g."""
    import torch

    n, channels, _ = x.shape

    def drawn(kind: str, *size: int) -> torch.Tensor:
        make = torch.randn if kind == "normal" else torch.rand
        return make(*size, generator=generator).to(x.device)

    x = (x - 0.5) * torch.exp(s * 0.3 * drawn("normal", n, 1, 1)) + s * 0.004 * drawn("normal", n, channels, 1)
    level = s * 0.014 * drawn("uniform", n, 1, 1)
    x = x + level * drawn("normal", *x.shape)
    full = 0.5 - 0.3 * min(s, 1.0) * drawn("uniform", n, 1, 1)
    return torch.minimum(torch.maximum(x, -full), full) + 0.5


def _smoothed(x: torch.Tensor) -> torch.Tensor:
    """Binomial weights along every axis of space, about a pixel wide; beyond the border the border's values go on."""
    import torch
    from torch.nn import functional as F

    shape = x.shape
    line = torch.tensor(KERNEL, device=x.device) / sum(KERNEL)
    for axis in range(2, x.ndim):
        if shape[axis] < len(KERNEL):
            continue
        moved = x.movedim(axis, -1)
        rows = F.pad(moved.reshape(-1, 1, shape[axis]), (2, 2), mode="replicate")
        x = F.conv1d(rows, line[None, None]).reshape(moved.shape).movedim(-1, axis)
    return x
