"""What a device looked like when its model was tested: places, counts and how alike the events of one patient are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from components.core.errors import DataError
from components.monitor.case_mix import ALL
from components.monitor.sketch import BINS, MISSING, Places, Sketch, hashes

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
        per_patient: (features,) events of the patient that an event belongs to, in the mean over the events that have the feature.
    """

    places: Places
    sketch: Sketch
    alike: NDArray[np.float64]
    per_patient: NDArray[np.float64]


@dataclass(frozen=True)
class Beside:
    """Events of another kind than the rest, with features that only they have: whole slides beside tiles. None of them is in a stratum.

    Args:
        columns: Feature name -> (n,) numbers.
        devices, groups: (n,) device keys and patients.
    """

    columns: Mapping[str, NDArray[np.float64]]
    devices: Sequence[str]
    groups: Sequence[Any]


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
        apart: Feature that only events of one kind have -> what these features are called together. That it is missing says nothing.
    """

    features: tuple[str, ...]
    strata: tuple[str, ...]
    own: Mapping[str, Baseline]
    pooled: Baseline
    shares: Mapping[str, float]
    sizes: Mapping[str, int]
    apart: Mapping[str, str] = field(default_factory=dict)

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
        beside: Beside | None = None,
        apart: Mapping[str, str] | None = None,
    ) -> Reference:
        """From n events of the reference.

        Args:
            columns: Feature name -> (n,) values, numbers or texts.
            devices: (n,) device keys.
            groups: (n,) patients; an event without a patient is its own.
            strata: (n,) case-mix stratum of each event.
            named: All strata in their order, also those without an event; default: those of `strata`, as they come.
            beside: Events that are no part of these n, whose features come after `columns`; only where there is one stratum.
            apart: As in the class.

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
        others = beside or Beside({}, (), ())
        whose, at = hashes(others.groups), np.asarray([str(d) for d in others.devices], dtype=str)

        def baseline(rows: NDArray[np.int64], there: NDArray[np.int64], like: Places | None = None) -> Baseline:
            part = {name: values[rows] for name, values in arrays.items()}
            apart = {name: np.asarray(values, np.float64)[there] for name, values in others.columns.items()}
            places = Places.of(part | apart, like)
            sketch = Sketch.empty(len(names), len(places.features))
            sketch.add(places, part, patient[rows], code[rows])
            alike, per_patient = np.ones(len(places.features)), np.full(len(places.features), sketch.per_patient)
            for f, name in enumerate(places.features):
                values, who, where = (apart[name], whose[there], at[there]) if name in apart else (part[name], patient[rows], device[rows])
                place = places.place(f, values)
                alike[f] = _alike(place, who, np.unique(where, return_inverse=True)[1])
                if name in apart:
                    sketch.counts[0, f] = np.bincount(place, minlength=BINS)
                    sizes = np.unique(who[place != MISSING], return_counts=True)[1]
                    per_patient[f] = (sizes**2).sum() / max(1, sizes.sum()) if len(sizes) else 1.0
            return Baseline(places, sketch, alike, per_patient)

        pooled = baseline(np.arange(len(device)), np.arange(len(at)))
        own = {
            str(key): baseline(np.flatnonzero(device == key), np.flatnonzero(at == key), pooled.places)
            for key, n in zip(keys, times, strict=True)
            if n >= least
        }
        shares = {str(key): float(n) / len(device) for key, n in zip(keys, times, strict=True)}
        sizes = {str(key): int(n) for key, n in zip(keys, times, strict=True)}
        return cls((*arrays, *others.columns), names, own, pooled, shares, sizes, dict(apart or {}))

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
