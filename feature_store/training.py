"""The only way train and evaluate get samples: split, profiles, normalisation.

The server normalises with the same `components.core.devices.normalise`, so a model meets intensities prepared in one way only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import SPLITS, Dataset
from components.core.devices import DeviceProfile, normalise, pooled
from components.core.errors import DataError
from components.core.folds import roles
from components.core.left_out import splits
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


def load_split(
    spec: DiseaseSpec, dataset: Path, features: Path, split: str, reference: DeviceProfile | None = None, *, fold: int | None = None
) -> Split:
    """Open one split; nothing is read from the shards before the first batch.

    Args:
        dataset: As written by ingest.
        features: The Feast folder; touched only when `spec.normalise.method` is `device`.
        split: One of `spec.manifest_splits`; with `fold`, `train`, `val` or `test`.
        reference: The model's reference profile; by default pooled over the profiles of the train split.
        fold: Of cross-validation; None for the model that is registered, for a plain split and for external sets.

    Raises:
        DataError: No such split or fold, no samples in it, a label outside the spec's classes, or no profile to pool.
    """
    allowed = spec.manifest_splits if fold is None else SPLITS
    if split not in allowed:
        raise DataError("no such split", where="load_split", got=f"'{split}'", allowed=", ".join(allowed))
    data = Dataset(dataset, expect=spec)
    of = splits(data.manifest, spec) if fold is None else roles(data.manifest, spec, fold)
    index, train = np.flatnonzero(of == split), np.flatnonzero(of == "train")
    if not len(index):
        raise DataError("no samples in this split", where=f"{dataset}: {split}" + ("" if fold is None else f" of fold {fold}"), got=0)
    unlabelled = split in [e.split for e in spec.external if e.role == "pretrain"]
    return _opened(spec, data, features, index, train, reference, where=f"{dataset}: {split}", unlabelled=unlabelled)


def load_unlabelled(spec: DiseaseSpec, dataset: Path, features: Path, reference: DeviceProfile | None = None) -> Samples | None:
    """The samples that unsupervised pre-training sees: of the sets that stages name, else of all with the role `pretrain`.

    None where there are none. A label that is missing is -1 (multi-label: not a number).
    """
    named = {stage.data for stage in spec.stages if stage.data}
    wanted = [e.split for e in spec.external if e.role == "pretrain" and (not named or e.name in named)]
    data = Dataset(dataset, expect=spec)
    of = splits(data.manifest, spec)
    index = np.flatnonzero(np.isin(of.astype(str), wanted))
    if not len(index):
        return None
    train = np.flatnonzero(of == "train")
    return _opened(spec, data, features, index, train, reference, where=f"{dataset}: {', '.join(wanted)}", unlabelled=True).samples


def _opened(
    spec: DiseaseSpec,
    data: Dataset,
    features: Path,
    index: NDArray[np.int64],
    train: NDArray[np.int64],
    reference: DeviceProfile | None,
    *,
    where: str,
    unlabelled: bool,
) -> Split:
    """Manifest rows `index` as a split."""
    rows = data.manifest.iloc[index].reset_index(drop=True)
    profiles: list[DeviceProfile | None] | None = None
    missing = np.zeros(len(index), dtype=np.bool_)
    if spec.normalise.method == "device":
        everywhere = _profiles(data.path, features, (data.path / "manifest.parquet").stat().st_mtime_ns)
        profiles = [everywhere[i] for i in index]
        missing = np.array([profile is None for profile in profiles])
        if reference is None:
            # Each profile counts once, by its own n: it was measured on the device's samples, not on this split's.
            reference = pooled({p for i in train if (p := everywhere[i]) is not None})
    else:
        reference = None

    def batch(chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        own = [profiles[i] for i in chosen] if profiles is not None else None
        return normalise(data.read(index[chosen]), spec, own, reference)

    labels = _labels(spec, rows, where=where, unlabelled=unlabelled)
    samples = Samples(batch=batch, labels=labels, groups=rows["group_id"].to_numpy(dtype=object), devices=rows["device_key"].to_numpy(dtype=object))
    return Split(samples=samples, rows=rows, profiles=profiles, reference=reference, missing_profile=missing)


@lru_cache(maxsize=2)
def _profiles(dataset: Path, features: Path, written_ns: int) -> list[DeviceProfile | None]:
    """The profile of every row of a dataset; folds ask for the same ones many times. `written_ns` tells two datasets at one path apart."""
    from feature_store.store import profiles_at

    return profiles_at(features, Dataset(dataset).manifest)


def _labels(spec: DiseaseSpec, rows: pd.DataFrame, *, where: str, unlabelled: bool) -> NDArray[np.int64] | NDArray[np.float32]:
    """(n,) int64 class indices, or (n, classes) float32 for multi-label."""
    classes = len(spec.target.classes)
    if spec.target.kind == "multilabel":
        nothing = np.full(classes, np.nan, np.float32) if unlabelled else np.empty(0, np.float32)
        values = [np.asarray(v, dtype=np.float32) if v is not None else nothing for v in rows["labels"]]
        if bad := sum(v.shape != (classes,) for v in values):
            raise DataError("labels that are not one value per class", where=f"{where}: labels", got=f"{bad} samples", allowed=f"{classes} values")
        return np.stack(values)
    label = rows["label"].astype("Float64")
    fits = label.between(0, classes - 1).fillna(False)
    if unlabelled:
        fits |= label.isna()
    if bad := int((~fits).sum()):
        raise DataError("labels outside the spec's classes", where=f"{where}: label", got=f"{bad} samples", allowed=f"0..{classes - 1}")
    return label.fillna(-1).to_numpy(dtype=np.int64)
