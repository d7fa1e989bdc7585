"""Hand-made features of a window of worn accelerometers: how it shakes in the band of walking and in the band of freezing.

Channels come in threes, one triple for each sensor (a single channel counts as a sensor of its own). The rate is taken from the window:
features are of shares and of bands in cycles per window, so `features` needs to know how long a window is: `WINDOW_S`.

Source:
    Freeze index and its bands: Moore, MacDougall and Ondo, Journal of Neuroscience Methods 2008.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError

WINDOW_S = 5.12
WALKING_HZ, FREEZING_HZ, FAST_HZ = (0.5, 3.0), (3.0, 8.0), (8.0, 15.0)
OF_A_SENSOR = (
    "sd",
    "range",
    "jerk",
    "log_walking",
    "log_freezing",
    "log_fast",
    "freeze_index",
    "share_freezing",
    "peak_hz",
    "peak_share",
    "entropy",
    "sd_before",
    "freeze_index_before",
    "tilt",
)
MOST_SENSORS = 3
NAMES = tuple(f"{name}_{sensor}" for sensor in range(MOST_SENSORS) for name in OF_A_SENSOR)
FLOOR = 1e-9
CHUNK = 1024


def features(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, C, T) in [0, 1] -> (N, 42) in the order of `NAMES`; all finite. Sensors that are not there repeat the first one's figures.

    The second half of a window is judged; `*_before` is the same figure of its first half.
    """
    if x.ndim != 3 or x.shape[2] < 32 or x.shape[1] > 3 * MOST_SENSORS or (x.shape[1] > 3 and x.shape[1] % 3):
        raise DataError("gait features need windows of 1 to 3 sensors with 3 axes", where="gait", got=f"shape {x.shape[1:]}")
    parts = [_features(np.asarray(x[i : i + CHUNK], dtype=np.float64)) for i in range(0, len(x), CHUNK)]
    return np.concatenate(parts) if parts else np.empty((0, len(NAMES)), np.float32)


def _features(x: NDArray[np.float64]) -> NDArray[np.float32]:
    axes = min(3, x.shape[1])
    sensors = [x[:, k : k + axes] - 0.5 for k in range(0, x.shape[1], axes)]
    figures = [_sensor(s) for s in sensors]
    figures += [figures[0]] * (MOST_SENSORS - len(figures))
    return np.concatenate(figures, axis=1).astype(np.float32)


def _sensor(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3, T) around 0 -> (N, 14)."""
    half = x.shape[2] // 2
    before, now = x[:, :, -2 * half : -half], x[:, :, -half:]
    hz, power = _spectrum(now, WINDOW_S / x.shape[2])
    hz_before, power_before = _spectrum(before, WINDOW_S / x.shape[2])
    walking, freezing, fast = (_band(hz, power, band) for band in (WALKING_HZ, FREEZING_HZ, FAST_HZ))
    total = power.sum(axis=1) + FLOOR
    share = power / total[:, None]
    magnitude = np.sqrt((now**2).sum(axis=1))
    mean = now.mean(axis=2)
    return np.stack(
        [
            np.sqrt(now.var(axis=2).sum(axis=1)),
            np.ptp(magnitude, axis=1),
            np.abs(np.diff(magnitude, axis=1)).mean(axis=1),
            np.log10(walking + FLOOR),
            np.log10(freezing + FLOOR),
            np.log10(fast + FLOOR),
            freeze_index(hz, power),
            freezing / total,
            hz[power.argmax(axis=1)],
            share.max(axis=1),
            -(share * np.log(share + FLOOR)).sum(axis=1) / np.log(len(hz)),
            np.sqrt(before.var(axis=2).sum(axis=1)),
            freeze_index(hz_before, power_before),
            mean[:, -1] / np.sqrt((mean**2).sum(axis=1) + FLOOR),
        ],
        axis=1,
    )


def _spectrum(x: NDArray[np.float64], step_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies above 0 in Hz, and the power of all axes together at each, (N, bins)."""
    n = x.shape[2]
    hann = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
    power = (np.abs(np.fft.rfft((x - x.mean(axis=2, keepdims=True)) * hann, axis=2)) ** 2).sum(axis=1) * 2 / hann.sum() ** 2
    return np.asarray(np.fft.rfftfreq(n, step_s)[1:], dtype=np.float64), power[:, 1:]


def _band(hz: NDArray[np.float64], power: NDArray[np.float64], band: tuple[float, float]) -> NDArray[np.float64]:
    return power[:, (hz >= band[0]) & (hz < band[1])].sum(axis=1)


def freeze_index(hz: NDArray[np.float64], power: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) logarithm (base 10) of the power at 3-8 Hz over the power at 0.5-3 Hz: high when trembling takes the place of steps."""
    return np.log10((_band(hz, power, FREEZING_HZ) + FLOOR) / (_band(hz, power, WALKING_HZ) + FLOOR))
