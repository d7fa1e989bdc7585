"""What a device looked like when its model was tested: places, counts and how alike the events of one patient are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from components.core.errors import DataError
from components.monitor.case_mix import ALL
from components.monitor.sketch import MISSING, Places, Sketch, hashes

POOLED = "pooled"
MIN_REFERENCE = 30
"""Fewer events of a device are no reference of its own: what changed on it cannot be said."""


@dataclass(frozen=True)
class Baseline:
    """One device, or all of them.

    Args:
        places: Where windows of this device have to be counted.
        sketch: The reference's own counts.
        alike: (features,) in [0, 1]: intraclass correlation of the events of one patient, in normal scores.
    """

    places: Places
    sketch: Sketch
    alike: NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """All baselines of one model.

    Args:
        features: Names, in order.
        strata: Names of the case-mix strata; one where nothing is known of the case mix.
        own: Baseline of each device with at least `MIN_REFERENCE` events.
        pooled: Of all devices together, for the others.
        shares: Device -> share of the reference's events, also for devices without a baseline.
        sizes: Device -> its events in the reference.
    """

    features: tuple[str, ...]
    strata: tuple[str, ...]
    own: Mapping[str, Baseline]
    pooled: Baseline
    shares: Mapping[str, float]
    sizes: Mapping[str, int]

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Any],
        devices: Sequence[str],
        groups: Sequence[Any],
        strata: Sequence[str] | None = None,
        *,
        named: Sequence[str] | None = None,
        least: int = MIN_REFERENCE,
    ) -> Reference:
        """From n events of the reference.

        Args:
            columns: Feature name -> (n,) values, numbers or texts.
            devices: (n,) device keys.
            groups: (n,) patients; an event without a patient is its own.
            strata: (n,) case-mix stratum of each event.
            named: All strata in their order, also those without an event; default: those of `strata`, as they come.

        Raises:
            DataError: No events or no features.
        """
        device = np.asarray([str(d) for d in devices])
        if not len(device) or not columns:
            raise DataError("an empty drift reference", where="reference", got=f"{len(device)} events, {len(columns)} features")
        names = tuple(named or dict.fromkeys(strata)) if strata is not None else (ALL,)
        code = np.array([names.index(s) for s in strata], dtype=np.int64) if strata is not None else np.zeros(len(device), np.int64)
        patient = hashes(groups)
        keys, times = np.unique(device, return_counts=True)
        arrays = {name: np.asarray(values) for name, values in columns.items()}

        def baseline(rows: NDArray[np.int64], like: Places | None = None) -> Baseline:
            part = {name: values[rows] for name, values in arrays.items()}
            places = Places.of(part, like)
            sketch = Sketch.empty(len(names), len(arrays))
            sketch.add(places, part, patient[rows], code[rows])
            within = np.unique(device[rows], return_inverse=True)[1]
            alike = [_alike(places.place(f, part[name]), patient[rows], within) for f, name in enumerate(places.features)]
            return Baseline(places, sketch, np.array(alike))

        pooled = baseline(np.arange(len(device)))
        own = {str(key): baseline(np.flatnonzero(device == key), pooled.places) for key, n in zip(keys, times, strict=True) if n >= least}
        shares = {str(key): float(n) / len(device) for key, n in zip(keys, times, strict=True)}
        return cls(tuple(arrays), names, own, pooled, shares, {str(key): int(n) for key, n in zip(keys, times, strict=True)})

    def baseline(self, device: str) -> tuple[Baseline, str]:
        """The baseline that a device's windows are counted on and compared with, and its name: `own` or `pooled`."""
        return (self.own[device], "own") if device in self.own else (self.pooled, POOLED)


def _alike(place: NDArray[np.int64], patient: NDArray[np.uint64], device: NDArray[np.int64]) -> float:
    """Intraclass correlation of one feature (ANOVA, unequal groups) within devices; 1 where no patient has two events, which is unknown.

    Source:
        Donner, Int. Stat. Rev. 1986.
    """
    there = place != MISSING
    place, patient, device = place[there], patient[there], device[there]
    if len(place) < 2:
        return 1.0
    score = special.ndtri((stats.rankdata(place) - 0.5) / len(place))
    score = score - (np.bincount(device, score) / np.maximum(np.bincount(device), 1))[device]
    _, group = np.unique(patient, return_inverse=True)
    sizes = np.bincount(group)
    n, k = len(score), len(sizes)
    if k in (1, n):
        return 1.0
    means = np.bincount(group, score) / sizes
    between = (sizes * means**2).sum() / (k - 1)
    within = ((score - means[group]) ** 2).sum() / (n - k)
    typical = (n - (sizes**2).sum() / n) / (k - 1)
    total = between + (typical - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total > 1e-12 else 0.0
