"""One device left out: who trains, who validates and who is tested when a model must not have seen a device.

Everything of the device is test, and with it every other sample of its groups (a lesion that two cameras photographed); the others keep their
split, so that the same model also answers for devices that it knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import SPLITS
from components.core.errors import DataError
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

LEAST = 3  # devices; with two, "the others" would be one


def splits(manifest: pd.DataFrame, spec: DiseaseSpec) -> NDArray[np.object_]:
    """The split of every row: the manifest's, or with `spec.split.leave_out` that of a model that never sees this device.

    Raises:
        DataError: The dataset has no such device.
    """
    found = manifest["split"].to_numpy(dtype=object).copy()
    if not spec.split.leave_out:
        return found
    inside = np.isin(found.astype(str), SPLITS)
    own = inside & (manifest["device_key"] == spec.split.leave_out).to_numpy(dtype=bool, na_value=False)
    if not own.any():
        raise DataError("no such device", where=f"{spec.name}: split.leave_out", got=f"'{spec.split.leave_out}'", allowed="a device of the dataset")
    found[inside & manifest["group_id"].isin(manifest["group_id"][own]).to_numpy(dtype=bool)] = "test"
    return found


def candidates(manifest: pd.DataFrame, spec: DiseaseSpec, *, least: int = LEAST) -> list[str]:
    """The devices that can each be left out and judged: `spec.device.min_n` samples or more, of more than one class.

    Raises:
        DataError: Fewer than `least` such devices.
    """
    rows = manifest[manifest["split"].isin(SPLITS)]
    if spec.target.kind == "multilabel":
        side = rows["labels"].map(str)
    else:
        side = rows["label"].isin(spec.positive_indices) if spec.positive_indices else rows["label"]
    found = []
    for key, own in side.groupby(rows["device_key"], sort=True):
        if str(key) != UNKNOWN_DEVICE and len(own) >= spec.device.min_n and own.nunique() > 1:
            found.append(str(key))
    if len(found) < least:
        raise DataError("too few devices to leave one out", where=spec.name, got=len(found), allowed=f"at least {needed(spec)}")
    return found


def needed(spec: DiseaseSpec) -> str:
    """What leaving one out asks of the data, in words."""
    return f"{LEAST} devices with {spec.device.min_n} samples and both sides of the question each"
