"""The dataset contract between ingest and every later step.

    manifest.parquet    one row per sample, columns `MANIFEST`, sorted by sample_id
    shards/00000.npy    (n, *input.shape) decoded samples; opened memory-mapped, read at random
    quarantine.parquet  file, reason, offset, skipped: what ingest could not use, and what it was not meant to
    dataset.json        schema version, spec digest, counts, provenance, synthetic or real

The folder appears whole or not at all. The same input and key give the same bytes: no clock, no machine, no random id in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
SHARD_BYTES = 64 << 20
SPLITS = ("train", "val", "test")

MANIFEST: dict[str, str] = {
    # identity, all pseudonymous
    "sample_id": "string",
    "group_id": "string",
    "patient_id": "string",
    "series_id": "string",
    "device_key": "string",
    "manufacturer": "string",
    "model": "string",
    "software": "string",
    "site": "string",
    # acquisition; dates are shifted by one offset per key, so order and distance survive and the date does not
    "acquired_at": "timestamp[us]",
    "acq_kvp": "float",
    "acq_exposure_mas": "float",
    "acq_kernel": "string",
    "acq_slice_thickness_mm": "float",
    "acq_pixel_mm": "float",
    "acq_rows": "int32",
    "acq_columns": "int32",
    "acq_bits": "int32",
    "acq_photometric": "string",
    "acq_transfer_syntax": "string",
    "acq_modality": "string",
    "acq_field_strength_t": "float",
    "acq_rate_hz": "float",
    "acq_microns_per_pixel": "float",
    # target: class index, or one value per class for multi-label
    "label": "int32",
    "labels": "list<float>",
    "split": "string",
    # cross-validation: the fold in which the sample is test; null where there are no folds or the sample belongs to an external set
    "fold": "int32",
    # where in its group the sample lies: a tile's centre (x, y) in microns, a window's start in seconds; the lesion it shows, if it does
    "place": "list<float>",
    "lesion_id": "string",
    # what the whole group is (a slide), where the source says so; what a human reader gave the group, any scale, higher is more positive
    "group_label": "int32",
    "reader_score": "float",
    # content: SHA-256 of the decoded bytes, 64-bit difference hash (hexadecimal) for near-duplicates, share of the commonest value
    "content_hash": "string",
    "near_hash": "string",
    "constant_share": "float",
    "synthetic": "bool",
    "shard": "int32",
    "offset": "int64",
}
# skipped: in order, but not meant here, e.g. a byte-equal copy; no damage
QUARANTINE: dict[str, str] = {"file": "string", "reason": "string", "offset": "int64", "skipped": "bool"}


def arrow_schema(columns: dict[str, str]) -> Any:
    """The pyarrow schema of one of the tables above."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "float": pa.float32(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "bool": pa.bool_(),
        "timestamp[us]": pa.timestamp("us", tz="UTC"),
        "list<float>": pa.list_(pa.float32()),
    }
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])


class Dataset:
    """A dataset folder, opened: the manifest as a DataFrame, the samples as memory maps."""

    def __init__(self, path: str | Path, *, expect: DiseaseSpec | None = None) -> None:
        self.path = Path(path)
        try:
            self.info: dict[str, Any] = json.loads((self.path / "dataset.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            raise DataError("not a dataset: dataset.json is missing or unreadable", where=str(self.path)) from None
        if self.info["schema_version"] != SCHEMA_VERSION:
            raise DataError("dataset of another schema", where=str(self.path), got=self.info["schema_version"], allowed=SCHEMA_VERSION)
        if expect is not None and self.info["disease"] != expect.name:
            raise DataError("dataset of another disease", where=str(self.path), got=self.info["disease"], allowed=expect.name)

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row per sample, columns `MANIFEST`; the index is 0..n-1 in the order of the shards."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path / "manifest.parquet").to_pandas()

    @cached_property
    def quarantine(self) -> pd.DataFrame:
        import pyarrow.parquet as pq

        found = pq.read_table(self.path / "quarantine.parquet").to_pandas()
        told = found.get("skipped", False)  # older datasets do not say it
        return found.assign(skipped=np.equal(told, True).astype(bool))

    @cached_property
    def _shards(self) -> list[NDArray[Any]]:
        return [np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted((self.path / "shards").glob("*.npy"))]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(shard) for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, rows: NDArray[np.int64] | Iterable[int]) -> NDArray[Any]:
        """Decoded samples (len(rows), *shape) for manifest row numbers, in the given order."""
        index = np.asarray(list(rows) if not isinstance(rows, np.ndarray) else rows, dtype=np.int64)
        if len(self._shards) == 1:
            return self._shards[0][index]
        out = np.empty((len(index), *self.info["shape"]), dtype=self.info["dtype"])
        shard_of = np.searchsorted(self._starts, index, side="right") - 1
        for number in np.unique(shard_of):
            chosen = shard_of == number
            out[chosen] = self._shards[number][index[chosen] - self._starts[number]]
        return out

    def chunks(self, size: int = 256) -> Iterator[tuple[slice, NDArray[Any]]]:
        """All samples in order, `size` at a time."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield slice(start, stop), self.read(np.arange(start, stop))

    def rows(self, split: str) -> NDArray[np.int64]:
        """Manifest row numbers of one split."""
        return np.flatnonzero((self.manifest["split"] == split).to_numpy())
