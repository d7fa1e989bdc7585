"""Does the interval of the label-free AUC hold the device's true AUC, and how often is there one?

Simulated devices (synthetic): probabilities of eight devices whose calibration differs in intercept and slope, patients with several correlated
samples, and windows with another share of ill patients. The model is calibrated over all devices together, as `evaluate` does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.metrics import auc
from components.monitor.performance import estimate, learn

DEVICES, PER_DEVICE, PER_PATIENT, WINDOWS, WORLDS = 8, 500, 2, 4, 12
Floats = NDArray[np.float64]


def drawn(
    rng: np.random.Generator, n: int, quality: float, share: float, intercept: float, slope: float
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """n samples of n / PER_PATIENT patients: probability as the model says it, label, patient."""
    patient = np.repeat(np.arange(-(-n // PER_PATIENT)), PER_PATIENT)[:n]
    ill = (rng.random(patient.max() + 1) < share)[patient]
    own = rng.normal(0, 0.5, patient.max() + 1)[patient]
    score = quality * (ill - 0.5) + own + rng.normal(0, np.sqrt(0.75), n)
    prior = np.log(0.35 / 0.65)
    logit = intercept + slope * (quality * score + prior)  # what the model says; its calibration on this device is off by intercept and slope
    return 1 / (1 + np.exp(-logit)), ill.astype(np.int64), patient


def run() -> list[dict[str, Any]]:
    rows = []
    for quality, words in ((0.75, "about .70"), (1.2, "about .80"), (1.8, "about .90")):
        for n in (100, 300, 1000):
            for share, mix in ((0.35, "as before"), (0.2, "fewer ill")):
                held: list[bool] = []
                widths: list[float] = []
                windows: list[bool] = []
                tried = 0
                many, label, _ = drawn(np.random.default_rng(1), 200_000, quality, share, 0.0, 1.0)
                truth = auc(label, many)  # intercept and slope of a device change no rank
                for world in range(WORLDS):
                    rng = np.random.default_rng([2711, world, n, round(quality * 100), round(share * 100)])
                    off = [(rng.normal(0, 0.25), float(np.exp(rng.normal(0, 0.15)))) for _ in range(DEVICES)]
                    parts = [drawn(rng, PER_DEVICE, quality, 0.35, *off[k]) for k in range(DEVICES)]
                    p, y = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
                    group = np.concatenate([part[2] + 10_000 * k for k, part in enumerate(parts)])
                    learned = learn(p, y, np.repeat([f"d{k}" for k in range(DEVICES)], PER_DEVICE), group)
                    for k in range(WINDOWS):
                        said, label, patient = drawn(rng, n, quality, share, *off[k])
                        found = estimate(learned, said, f"d{k}", patient, about="device")
                        own = estimate(learned, said, f"d{k}", patient)
                        tried += 1
                        if found.judged and found.low is not None and found.high is not None:
                            held.append(found.low <= truth <= found.high)
                            widths.append(found.high - found.low)
                        if own.judged and own.low is not None and own.high is not None:
                            windows.append(own.low <= auc(label, said) <= own.high)
                rows.append(
                    {
                        "AUC": words,
                        "events": n,
                        "case mix": mix,
                        "windows": tried,
                        "judged": f"{len(held) / tried:.2f}",
                        "interval holds the truth": f"{np.mean(held):.2f}" if held else "-",
                        "median width": f"{np.median(widths):.3f}" if widths else "-",
                        "bound": "0.70, 0.90, 0.15",
                        "interval of the window's own AUC: judged, holds it": f"{len(windows) / tried:.2f}, {np.mean(windows) if windows else 0:.2f}",
                    }
                )
                print(rows[-1], flush=True)
    return rows
