"""The only way train and evaluate get samples: split, profiles, normalisation.

The server normalises with the same `components.core.devices.normalise`, so a model meets intensities prepared in one way only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import SPLITS, Dataset
from components.core.devices import DeviceProfile, normalise, pooled
from components.core.errors import DataError
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Split:
    """One split, ready for an estimator.

    Args:
        samples: Normalised batches on demand, labels, groups.
        rows: The split's manifest rows, index 0..n-1.
        profiles: The device profile of each sample, None where there is none; None altogether unless `spec.normalise.method` is `device`.
        reference: What samples are brought to; None unless the method is `device`. Pass it on: evaluation uses training's reference.
        missing_profile: (n,) bool, samples that stand on the reference for want of a profile of their own.
    """

    samples: Samples
    rows: pd.DataFrame
    profiles: list[DeviceProfile | None] | None
    reference: DeviceProfile | None
    missing_profile: NDArray[np.bool_]


def load_split(spec: DiseaseSpec, dataset: Path, features: Path, split: str, reference: DeviceProfile | None = None) -> Split:
    """Open one split; nothing is read from the shards before the first batch.

    Args:
        dataset: As written by ingest.
        features: The Feast folder; touched only when `spec.normalise.method` is `device`.
        split: `train`, `val` or `test`.
        reference: The model's reference profile; by default pooled over the profiles of the train split.

    Raises:
        DataError: No such split, no samples in it, a label outside the spec's classes, or no profile to pool.
    """
    if split not in SPLITS:
        raise DataError("no such split", where="load_split", got=f"'{split}'", allowed=", ".join(SPLITS))
    data = Dataset(dataset, expect=spec)
    index = data.rows(split)
    if not len(index):
        raise DataError("no samples in this split", where=f"{dataset}: {split}", got=0)
    rows = data.manifest.iloc[index].reset_index(drop=True)
    profiles: list[DeviceProfile | None] | None = None
    missing = np.zeros(len(index), dtype=np.bool_)
    if spec.normalise.method == "device":
        from feature_store.store import profiles_at

        everywhere = profiles_at(features, data.manifest)
        profiles = [everywhere[i] for i in index]
        missing = np.array([profile is None for profile in profiles])
        if reference is None:
            # Each profile counts once, by its own n: it was measured on the device's samples, not on this split's.
            reference = pooled({p for i in data.rows("train") if (p := everywhere[i]) is not None})
    else:
        reference = None

    def batch(chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        own = [profiles[i] for i in chosen] if profiles is not None else None
        return normalise(data.read(index[chosen]), spec, own, reference)

    samples = Samples(batch=batch, labels=_labels(spec, rows, where=f"{dataset}: {split}"), groups=rows["group_id"].to_numpy(dtype=object))
    return Split(samples=samples, rows=rows, profiles=profiles, reference=reference, missing_profile=missing)


def _labels(spec: DiseaseSpec, rows: pd.DataFrame, *, where: str) -> NDArray[np.int64] | NDArray[np.float32]:
    """(n,) int64 class indices, or (n, classes) float32 for multi-label."""
    classes = len(spec.target.classes)
    if spec.target.kind == "multilabel":
        values = [np.asarray(v, dtype=np.float32) if v is not None else np.empty(0, np.float32) for v in rows["labels"]]
        if bad := sum(v.shape != (classes,) for v in values):
            raise DataError("labels that are not one value per class", where=f"{where}: labels", got=f"{bad} samples", allowed=f"{classes} values")
        return np.stack(values)
    label = rows["label"]
    if bad := int((~label.between(0, classes - 1)).sum()):  # null is not between
        raise DataError("labels outside the spec's classes", where=f"{where}: label", got=f"{bad} samples", allowed=f"0..{classes - 1}")
    return label.to_numpy(dtype=np.int64)
