"""What can go wrong in an acquisition, as operations on samples: what an alarm's cause is named by, and what the monitor is tested with.

Each change has a strength up to 1, which is what a user of the machine would notice; those of `SIGNED` go both ways. Operations keep shape
and unit.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.devices import SPATIAL_AXES
from components.core.spec import DiseaseSpec

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Acquisition:
    """What an operation needs to know of the samples: (n, channels, ...) in a range, the last `axes` dimensions are space or time.

    Args:
        zero: What an amplifier does not move: 0 of a signal that swings about it, black (or air) of an image.
    """

    low: float
    high: float
    axes: int
    spread: float
    zero: float

    @property
    def width(self) -> float:
        return self.high - self.low


Change = Callable[[Floats, float, np.random.Generator, Acquisition], Floats]


def changed(name: str, x: NDArray[np.generic], strength: float, rng: np.random.Generator, spec: DiseaseSpec) -> Floats:
    """Samples as they would look after the change.

    Args:
        name: One of `possible(spec)`.
        x: (n, *input.shape) in the spec's unit.
    """
    y = np.asarray(x, dtype=np.float32)
    low, high = spec.input.range
    spread = float(np.median(y.reshape(len(y), -1).std(1))) if len(y) else 0.0
    zero = 0.0 if SPATIAL_AXES[spec.input.layout] == 1 and low < 0 < high else low
    return CHANGES[name](y, strength, rng, Acquisition(low, high, SPATIAL_AXES[spec.input.layout], spread, zero)).astype(np.float32)


def possible(spec: DiseaseSpec) -> tuple[str, ...]:
    """The changes that a spec's samples can undergo."""
    if spec.input.layout == "table":
        return ()
    pictures = spec.input.layout in ("image", "tiles")
    colour = pictures and spec.input.shape[0] == 3
    return tuple(name for name in CHANGES if (name not in ("compression", "gamma", "saturation") or pictures) and (name != "stain" or colour))


def _gain(x: Floats, strength: float, _: np.random.Generator, a: Acquisition) -> Floats:
    return (x - a.zero) * np.float32(1.35**strength) + np.float32(a.zero)


def _offset(x: Floats, strength: float, _: np.random.Generator, a: Acquisition) -> Floats:
    return x + np.float32(0.8 * strength * a.spread)


def _noise(x: Floats, strength: float, rng: np.random.Generator, a: Acquisition) -> Floats:
    return x + rng.standard_normal(x.shape, dtype=np.float32) * np.float32(0.4 * strength * a.spread)


def _blur(x: Floats, strength: float, _: np.random.Generator, a: Acquisition) -> Floats:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, [0] * (x.ndim - a.axes) + [0.35 + 0.85 * strength] * a.axes, mode="nearest")


def _sharpen(x: Floats, strength: float, _: np.random.Generator, a: Acquisition) -> Floats:
    from scipy.ndimage import gaussian_filter

    soft = gaussian_filter(x, [0] * (x.ndim - a.axes) + [1.0] * a.axes, mode="nearest")
    return x + np.float32(1.2 * strength) * (x - soft)


def _gamma(x: Floats, strength: float, _: np.random.Generator, a: Acquisition) -> Floats:
    unit = np.clip((x - a.low) / a.width, 0, 1)
    return (unit ** np.float32(1.6**strength)) * np.float32(a.width) + np.float32(a.low)


def _saturation(x: Floats, strength: float, _: np.random.Generator, a: Acquisition) -> Floats:
    """A sensor that is full earlier: everything above is cut off."""
    top = np.quantile(x, 0.995)
    full = a.low + (top - a.low) * (1 - 0.3 * strength)
    return np.minimum(x, np.float32(full))


def _compression(x: Floats, strength: float, _: np.random.Generator, a: Acquisition) -> Floats:
    from PIL import Image

    quality = round(60 - 45 * strength)
    top, bottom = max(a.high, float(x.max())), min(a.low, float(x.min()))
    bytes_ = np.rint((x - bottom) / (top - bottom) * 255).astype(np.uint8)
    out = np.empty_like(bytes_)
    for i, sample in enumerate(bytes_):
        for c, plane in enumerate(sample):
            buffer = io.BytesIO()
            Image.fromarray(plane).save(buffer, "JPEG", quality=quality)
            out[i, c] = np.asarray(Image.open(buffer))
    return out.astype(np.float32) / 255 * np.float32(top - bottom) + np.float32(bottom)


def _stain(x: Floats, strength: float, _: np.random.Generator, a: Acquisition) -> Floats:
    """More of one dye, or a lamp of another colour: optical densities of the channels scale apart."""
    light = np.maximum((x - a.low) / a.width, 1e-3)
    factor = 1 + strength * np.array([-0.12, 0.16, 0.3], dtype=np.float32)
    return light ** factor[:, None, None] * np.float32(a.width) + np.float32(a.low)


SIGNED = ("gain", "offset", "gamma", "stain")
CHANGES: dict[str, Change] = {
    "gain": _gain,
    "offset": _offset,
    "noise": _noise,
    "blur": _blur,
    "sharpening": _sharpen,
    "gamma": _gamma,
    "saturation": _saturation,
    "compression": _compression,
    "stain": _stain,
}


STRENGTHS = (0.25, 0.5, 1.0)


def simulated(x: NDArray[np.generic], spec: DiseaseSpec, *, seed: int = 0) -> dict[str, list[object]]:
    """How each change moves the figures of image quality, on real samples: columns `cause`, `strength` and those of `image_quality.names`.

    Args:
        x: (n, *input.shape): some of the reference's samples; about a hundred are enough.

    Returns:
        n rows for each change and strength, and n of no change (cause "", strength 0).
    """
    from components.core import image_quality

    columns: dict[str, list[object]] = {"cause": [], "strength": [], **{name: [] for name in image_quality.names(spec)}}
    ends = min(spec.input.range[0], float(np.min(x))), max(spec.input.range[1], float(np.max(x)))  # nothing is stored beyond
    asked = [("", 0.0)]
    for name in possible(spec):
        asked += [(name, sign * s) for sign in ((-1, 1) if name in SIGNED else (1,)) for s in STRENGTHS]
    for name, strength in asked:
        rng = np.random.default_rng([seed, len(columns["cause"])])
        seen = np.clip(changed(name, x, strength, rng, spec), *ends) if name else x
        found = image_quality.figures(seen, spec)
        columns["cause"] += [name] * len(x)
        columns["strength"] += [strength] * len(x)
        for key, values in found.items():
            columns[key] += values.tolist()
    return columns
