"""What a device does to intensities, measured once and undone everywhere by the same code.

A profile summarises the samples of one (device, software) pair in the spec's unit. `normalise` brings a sample from its device to the
reference, the training pool: a shift and a scale, and Gaussian smoothing where the device is noisier than the reference. Training,
evaluation and serving all call it, so a model never sees intensities prepared in two ways.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError, SpecError
from components.core.filtered import SPATIAL_AXES, Filtered, filtered, mean_square, ranked, rounded
from components.core.harmonise import harmonised
from components.core.spec import DiseaseSpec

MARGIN = 0.5  # the histogram reaches half a range beyond `input.range` on both sides: a miscalibrated device still shows where it is
BINS = 8192
NOISE_BINS = 4096
GRADIENT_STEPS = 64  # gradients are summed as whole numbers of 1/64 bin, so that sums do not depend on their order
MAD_TO_SD = 1.482602218505602
HIGH_PASS = np.array([1.0, -2.0, 1.0])
SCALE_LIMITS = (0.25, 4.0)  # a factor beyond these is another unit, not another scanner
SIGMA_MAX = 2.0  # pixels; stronger smoothing would remove what the model looks at
POOLED = "pooled"


@dataclass(frozen=True)
class DeviceProfile:
    """One (device, software) pair's intensities.

    Args:
        device_key: Pseudonym of the device.
        software: Its software version, or "".
        n: Samples behind the figures.
        mean, sd: Over all values of all samples, in `spec.input.unit`.
        p01, p50, p99: Percentiles after light smoothing ([1, 4, 6, 4, 1] / 16 along each axis), in the unit: noise hardly moves them.
        noise_sd: Robust standard deviation of the finest structure (high-pass), in the unit; exact for white noise.
        sharpness: Mean gradient magnitude per pixel, divided by `sd`; unitless.
    """

    device_key: str
    software: str
    n: int
    mean: float
    sd: float
    p01: float
    p50: float
    p99: float
    noise_sd: float
    sharpness: float

    @property
    def version(self) -> str:
        """16 hexadecimal characters that change with any value. Six significant digits count, so a trip through float32 keeps it."""
        text = json.dumps({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in asdict(self).items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DeviceProfile:
        """What `to_dict` gave; further keys are ignored, since a store returns its own columns beside ours. Raises DataError."""
        out: dict[str, Any] = {}
        for field in fields(cls):
            value = values.get(field.name)
            if value is None:
                raise DataError("incomplete device profile", where=f"device profile: {field.name}", got="nothing")
            if field.name in ("device_key", "software"):
                out[field.name] = str(value)
            elif not np.isfinite(value):
                raise DataError("device profile without a finite value", where=f"device profile: {field.name}", got=float(value))
            else:
                out[field.name] = int(value) if field.name == "n" else float(f"{value:.6g}")
        return cls(**out)


class ProfileAccumulator:
    """Measures one device piece by piece, in 200 kB whatever the number of samples.

    Everything is kept as whole-number counts, so any order of `add` and `merge` gives the same profile to the last bit.
    """

    def __init__(self, spec: DiseaseSpec) -> None:
        low, high = spec.input.range
        width = high - low
        self._spec = spec
        self._axes = SPATIAL_AXES[spec.input.layout]
        self._low, self._bin = low - MARGIN * width, (1 + 2 * MARGIN) * width / BINS
        self._noise_bin = width / NOISE_BINS
        self.n = 0
        self._values = np.zeros(BINS, dtype=np.int64)
        self._smooth = np.zeros(BINS, dtype=np.int64)
        self._noise = np.zeros(NOISE_BINS, dtype=np.int64)
        self._gradient = 0
        self._gradients = 0

    def add(self, array: NDArray[Any] | Filtered) -> None:
        """Count samples (n, *input.shape) in the spec's unit. Raises DataError when a value is not finite."""
        of = array if isinstance(array, Filtered) else Filtered(array, self._spec)
        if of.unfinite:
            raise DataError("values that are not finite", where="device profile", got=f"{of.unfinite} of the values of {of.n} samples")
        self.n += of.n
        self._values += self._histogram(of.y)
        self._smooth += self._histogram(of.smooth)
        if self._axes:
            fine = of.fine / np.float32(self._noise_bin)
            self._noise += np.bincount(np.minimum(fine, NOISE_BINS - 1).astype(np.int64).ravel(), minlength=NOISE_BINS)
            self._gradient += int(np.rint(of.slope * np.float32(GRADIENT_STEPS / self._bin)).astype(np.int64).sum())
            self._gradients += of.slope.size

    def _histogram(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        place = x - np.float32(self._low)
        place /= np.float32(self._bin)
        np.clip(place, 0, BINS - 1, out=place)
        return np.bincount(place.astype(np.int64).ravel(), minlength=BINS)

    def merge(self, other: ProfileAccumulator) -> None:
        """Take over what `other` has counted; both must come from the same spec."""
        if (self._low, self._bin, self._axes) != (other._low, other._bin, other._axes):
            raise DataError("profiles of different specs", where="device profile", got="another input.range or layout")
        self.n += other.n
        self._values += other._values
        self._smooth += other._smooth
        self._noise += other._noise
        self._gradient += other._gradient
        self._gradients += other._gradients

    def finish(self, device_key: str, software: str) -> DeviceProfile:
        """The profile of all that was added. Raises DataError when that is nothing."""
        if not self.n:
            raise DataError("no samples", where="device profile", got=0)
        centres = self._low + (np.arange(BINS) + 0.5) * self._bin
        total = int(self._values.sum())
        mean = float(self._values @ centres) / total
        sd = float(np.sqrt(self._values @ (centres - mean) ** 2 / total))
        p01, p50, p99 = (float(centres[_rank(self._smooth, q)]) for q in (0.01, 0.5, 0.99))
        noise, sharpness = 0.0, 0.0
        if self._gradients:
            middle = _rank(self._noise, 0.5)
            below, inside = int(self._noise[:middle].sum()), int(self._noise[middle])
            # Inside its bin the median is interpolated; the lowest bin also holds exact zeros, which say that there is no noise.
            share = (self._noise.sum() / 2 - below) / inside
            noise = MAD_TO_SD * self._noise_bin * float(middle + share) if middle else 0.0
            sharpness = self._gradient * self._bin / GRADIENT_STEPS / self._gradients / sd if sd > 0 else 0.0
        figures = (float(f"{value:.6g}") for value in (mean, sd, p01, p50, p99, noise, sharpness))
        return DeviceProfile(device_key, software, self.n, *figures)


def pooled(profiles: Iterable[DeviceProfile]) -> DeviceProfile:
    """The training pool as one profile, the reference of `normalise`: every figure is the mean over devices, weighted by their n.

    `sd` is the root mean variance inside devices: what differs between them is what normalisation removes.
    """
    members = sorted(profiles, key=lambda p: (p.device_key, p.software, p.version))
    n = sum(p.n for p in members)
    if not n:
        raise DataError("no device profiles to pool", where="device profile", got=len(members))

    def mean(name: str, power: int = 1) -> float:
        return sum(p.n * getattr(p, name) ** power for p in members) / n

    figures = (float(f"{value:.6g}") for value in (mean("mean"), mean("sd", 2) ** 0.5, *map(mean, ("p01", "p50", "p99", "noise_sd", "sharpness"))))
    return DeviceProfile(POOLED, "", n, *figures)


def normalise(
    x: NDArray[Any], spec: DiseaseSpec, profile: DeviceProfile | Sequence[DeviceProfile | None] | None, reference: DeviceProfile | None
) -> NDArray[np.float32]:
    """Bring samples to the model's input scale, by the method of `spec.normalise`, then by what it asks for `per_sample`.

    Args:
        x: (n, *input.shape) in `spec.input.unit`.
        profile: Of the device that made them: one for all, or one per sample. None stands for the reference itself.
        reference: The training pool; only method `device` needs it.

    Returns:
        (n, *input.shape) float32; in [0, 1] for methods `range` and `device`, unchanged values for `none`.

    Raises:
        DataError: Values that are not finite, another shape, or no reference for method `device`.
    """
    x = np.asarray(x)
    if x.shape[1:] != tuple(spec.input.shape):
        raise DataError("samples of another shape", where="normalise", got=list(x.shape[1:]), allowed=list(spec.input.shape))
    y = x.astype(np.float32)
    if x.dtype.kind == "f" and not np.isfinite(y).all():
        raise DataError("values that are not finite", where="normalise", got=f"{int((~np.isfinite(y)).sum())} of {y.size}")
    method = spec.normalise.method
    if method == "none":
        if spec.normalise.per_sample:
            raise SpecError("values as they are cannot be harmonised", where=f"{spec.name}: normalise.method", got="'none'", allowed="range, device")
        return y
    if method == "device":
        if reference is None:
            raise DataError("no reference profile", where="normalise", got="nothing", allowed="pooled(profiles of the training devices)")
        y = _to_reference(y, SPATIAL_AXES[spec.input.layout], profile, reference)
    low, high = spec.input.range
    y -= np.float32(low)
    y *= np.float32(1 / (high - low))
    if spec.normalise.per_sample:
        y = harmonised(y, spec.normalise.per_sample, axes=SPATIAL_AXES[spec.input.layout], where=spec.name)
    return np.clip(y, 0, 1, out=y)


def sample_figures(x: NDArray[Any] | Filtered, spec: DiseaseSpec) -> dict[str, NDArray[np.float64]]:
    """The figures of a profile for each sample on its own: what register keeps as the drift reference and the server logs.

    Args:
        x: (n, *input.shape), in `spec.input.unit`, finite.

    Returns:
        mean, sd, p01, p50, p99, noise_sd (unit) and sharpness (unitless), each (n,), six significant digits.
    """
    of = x if isinstance(x, Filtered) else Filtered(x, spec)
    n = of.n
    mean = np.add.reduce(of.means, axis=1) / of.channels
    sd = np.sqrt(mean_square(of.y - mean.astype(np.float32).reshape(n, *[1] * (of.y.ndim - 1))))
    smooth = of.smooth.reshape(n, -1)
    p01, p50, p99 = ranked(smooth, *(max(0, ceil(smooth.shape[1] * q) - 1) for q in (0.01, 0.5, 0.99)))
    noise, sharpness = np.zeros(n), np.zeros(n)
    if of.axes:
        fine, slope = of.fine.reshape(n, -1), of.slope.reshape(n, -1)
        middle = fine.shape[1] // 2
        fine = np.partition(fine, middle, axis=1)
        lower = fine[:, middle] if fine.shape[1] % 2 else fine[:, :middle].max(axis=1)
        noise = MAD_TO_SD * ((lower + fine[:, middle]) / 2)
        np.divide(np.add.reduce(slope, axis=1) / slope.shape[1], sd, out=sharpness, where=sd > 0)
    figures = {"mean": mean, "sd": sd, "p01": p01, "p50": p50, "p99": p99, "noise_sd": noise, "sharpness": sharpness}
    return rounded(figures)


def match(profile: DeviceProfile, reference: DeviceProfile, *, axes: int) -> tuple[float, float, float]:
    """What brings a device to the reference: y = blur(x, sigma) * scale + shift.

    The scale comes from the distance between the median and the 99th percentile, the shift from the median: landmarks that depend less on
    what happened to be in the samples, and on noise, than mean and standard deviation do. A device with less noise than the reference is
    not smoothed, and none is made noisier.

    Returns:
        scale (unitless), shift (unit), sigma (pixels, 0 for none).

    Source:
        Landmark standardisation: Nyul and Udupa, Magnetic Resonance in Medicine 1999.
    """
    own, other = profile.p99 - profile.p50, reference.p99 - reference.p50
    scale = float(np.clip(other / own, *SCALE_LIMITS)) if own > 0 and other > 0 else 1.0
    shift = reference.p50 - scale * profile.p50
    noise = scale * profile.noise_sd
    sigma = _sigma(round(reference.noise_sd / noise, 3), axes) if axes and 0 < reference.noise_sd < noise else 0.0
    return scale, shift, sigma


def _to_reference(
    y: NDArray[np.float32], axes: int, profile: DeviceProfile | Sequence[DeviceProfile | None] | None, reference: DeviceProfile
) -> NDArray[np.float32]:
    if profile is None or isinstance(profile, DeviceProfile):
        return y if profile in (None, reference) else _apply(y, match(profile, reference, axes=axes), axes)
    if len(profile) != len(y):
        raise DataError("profiles and samples differ in number", where="normalise", got=len(profile), allowed=len(y))
    rows: dict[DeviceProfile, list[int]] = {}
    for row, one in enumerate(profile):
        if one is not None and one != reference:
            rows.setdefault(one, []).append(row)
    for one, chosen in rows.items():
        y[chosen] = _apply(y[chosen], match(one, reference, axes=axes), axes)
    return y


def _apply(y: NDArray[np.float32], change: tuple[float, float, float], axes: int) -> NDArray[np.float32]:
    scale, shift, sigma = change
    if sigma > 0:
        y = filtered(y, _gaussian(sigma), axes)
    y *= np.float32(scale)
    y += np.float32(shift)
    return y


def _rank(counts: NDArray[np.int64], q: float) -> int:
    """The first bin at which a share `q` of all values is reached."""
    return int(np.searchsorted(np.cumsum(counts), max(1, int(np.ceil(q * int(counts.sum()))))))


@lru_cache(maxsize=256)
def _gaussian(sigma: float) -> NDArray[np.float32]:
    reach = max(1, int(np.ceil(3 * sigma)))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


@lru_cache(maxsize=4096)
def _sigma(ratio: float, axes: int) -> float:
    """The Gaussian, in pixels, that brings the high-pass noise of white noise down to `ratio` in (0, 1) of what it was."""

    def remaining(sigma: float) -> float:
        through = np.convolve(_gaussian(sigma).astype(np.float64), HIGH_PASS)
        return float((np.sum(through**2) / np.sum(HIGH_PASS**2)) ** (axes / 2))

    low, high = 0.05, SIGMA_MAX
    if remaining(high) >= ratio:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if remaining(middle) > ratio else (low, middle)
    return round(high, 4)
