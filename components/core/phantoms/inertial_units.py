"""Simulated accelerometer units: rate, gain, noise, clipping, resolution, and how they sit on the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """One kind of recorder with its three sensors.

    Args:
        rate_hz: Samples per second.
        gain: Calibration error of all axes; `offset_mg`: largest zero error of an axis.
        noise_mg: Standard deviation of white noise at `rate_hz`.
        clip_g: Largest value, either way; step_mg: resolution.
        tilt_deg: Largest angle by which a sensor sits askew, about any axis; yaw_deg: how far it is turned about the vertical on purpose.
    """

    key: str
    rate_hz: float
    gain: float
    offset_mg: float
    noise_mg: float
    clip_g: float
    step_mg: float
    tilt_deg: float
    yaw_deg: float

    def record(self, motion: Floats, fine_hz: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True acceleration (n, 9) in mg at `fine_hz` -> times in ms (m,), readings in mg (m, 9)."""
        from scipy.ndimage import gaussian_filter1d

        placed = np.concatenate([motion[:, k : k + 3] @ self._placed(rng).T for k in (0, 3, 6)], axis=1)
        # The unit's own analogue filter, so that nothing folds over.
        turned: Floats = np.asarray(gaussian_filter1d(placed, 0.3 * fine_hz / self.rate_hz, axis=0), dtype=np.float64)
        seconds = np.arange(1, int(len(motion) / fine_hz * self.rate_hz)) / self.rate_hz
        fine = np.arange(len(motion)) / fine_hz
        seen = np.stack([np.interp(seconds, fine, turned[:, axis]) for axis in range(turned.shape[1])], axis=1)
        seen = self.gain * seen + rng.uniform(-self.offset_mg, self.offset_mg, turned.shape[1]) + rng.normal(0, self.noise_mg, seen.shape)
        seen = np.clip(np.rint(seen / self.step_mg) * self.step_mg, -1000 * self.clip_g, 1000 * self.clip_g)
        return np.floor(seconds * 1000).astype(np.int64), np.rint(seen).astype(np.int64)

    def _placed(self, rng: np.random.Generator) -> Floats:
        """A rotation: the unit's yaw about the vertical (second) axis, then a tilt of the day."""
        axis = rng.normal(size=3)
        return _rotation(axis / np.linalg.norm(axis), np.deg2rad(rng.uniform(0, self.tilt_deg))) @ _rotation(
            np.array([0.0, 1.0, 0.0]), np.deg2rad(self.yaw_deg)
        )


def _rotation(axis: Floats, angle: float) -> Floats:
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


UNITS = (
    Unit("syn-alpha", rate_hz=64, gain=1.00, offset_mg=20, noise_mg=12, clip_g=6, step_mg=9, tilt_deg=10, yaw_deg=0),
    Unit("syn-beta", rate_hz=100, gain=1.08, offset_mg=10, noise_mg=6, clip_g=8, step_mg=1, tilt_deg=10, yaw_deg=0),
    Unit("syn-gamma", rate_hz=40, gain=0.93, offset_mg=40, noise_mg=20, clip_g=4, step_mg=16, tilt_deg=15, yaw_deg=0),
    Unit("syn-omega", rate_hz=50, gain=0.5, offset_mg=80, noise_mg=90, clip_g=2, step_mg=31, tilt_deg=20, yaw_deg=90),
)
KNOWN, UNSEEN = ("syn-alpha", "syn-beta", "syn-gamma"), ("syn-omega",)
