"""Simulated devices whose events look like figures of image quality: correlated, some skewed, one with few values. Synthetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.monitor.detect import Detector
from components.monitor.reference import Reference
from components.monitor.sketch import Sketch, hashes

FEATURES, DEVICES, REFERENCE = 30, 8, 2000
NAMES = tuple(f"f{k:02d}" for k in range(FEATURES))
SHARED = 0.3
Floats = NDArray[np.float64]


def events(rng: np.random.Generator, n: int) -> Floats:
    """(n, FEATURES)"""
    common = rng.standard_normal((n, 1))
    x = np.sqrt(1 - SHARED) * rng.standard_normal((n, FEATURES)) + np.sqrt(SHARED) * common
    x[:, 10:20] = np.exp(0.5 * x[:, 10:20])
    x[:, 28] = np.round(2 * x[:, 28])
    return x


SPREAD = events(np.random.default_rng(99), 200_000).std(0)


class Site:
    """Eight devices with a reference each."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([2611, seed])
        self.reference = np.concatenate([events(rng, REFERENCE) for _ in range(DEVICES)])
        devices = np.repeat([f"d{i}" for i in range(DEVICES)], REFERENCE)
        self.known = Reference.of(dict(zip(NAMES, self.reference.T, strict=True)), devices.tolist(), list(range(len(devices))))
        self.rng = rng

    def window(self, n: int, *, changed: tuple[int, float] | None = None) -> dict[str, Floats]:
        """n events of each device; `changed` = (feature, standard deviations) on the first one."""
        out = {f"d{i}": events(self.rng, n) for i in range(DEVICES)}
        if changed is not None:
            out["d0"][:, changed[0]] += changed[1] * SPREAD[changed[0]]
        return out

    def sketched(self, detector: Detector, window: dict[str, Floats]) -> dict[str, Sketch]:
        out = {}
        for device, x in window.items():
            out[device] = detector.sketch(device)
            patients = hashes(self.rng.integers(0, 1 << 60, len(x)).tolist())
            out[device].add(self.known.baseline(device)[0].places, dict(zip(NAMES, x.T, strict=True)), patients)
        return out
