"""The dataset contract between ingest and every later step.

    manifest.parquet    one row per sample, columns `MANIFEST`, sorted by sample_id
    shards/00000.npy    (n, *input.shape) decoded samples; opened memory-mapped, read at random
    quarantine.parquet  file, reason, offset: what ingest could not use
    dataset.json        schema version, spec digest, counts, provenance, synthetic or real

The folder appears whole or not at all. The same input and key give the same bytes: no clock, no machine, no random id in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.atomic import atomic_dir
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
QUARANTINE: dict[str, str] = {"file": "string", "reason": "string", "offset": "int64"}


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


@dataclass(frozen=True)
class Sample:
    """One decoded sample on its way into a dataset.

    Args:
        row: Values of `MANIFEST` columns; `content_hash`, `near_hash`, `constant_share`, `shard`, `offset` are filled in by the writer.
        array: `spec.input.shape`, `spec.input.dtype`, in `spec.input.unit`.
    """

    row: dict[str, Any]
    array: NDArray[Any]


def write_dataset(
    path: str | Path, spec: DiseaseSpec, samples: Iterable[Sample], *, count: int, quarantine: list[dict[str, Any]], provenance: dict[str, Any]
) -> dict[str, Any]:
    """Write a dataset folder atomically; memory stays at one sample plus the manifest.

    Args:
        samples: In ascending order of sample_id.
        count: How many samples will come; shards are laid out from it.
        provenance: JSON-able facts: source digest, reader, key fingerprint, software versions.

    Returns:
        The contents of dataset.json.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    shape, dtype = tuple(spec.input.shape), np.dtype(spec.input.dtype)
    per_shard = max(1, SHARD_BYTES // max(1, int(np.prod(shape)) * dtype.itemsize))
    rows: list[dict[str, Any]] = []
    with atomic_dir(path) as folder:
        (folder / "shards").mkdir()
        shard: NDArray[Any] | None = None
        last = ""
        for n, sample in enumerate(samples):
            if n >= count:
                raise DataError("more samples than announced", where=str(path), got=n + 1, allowed=count)
            if sample.array.shape != shape or sample.array.dtype != dtype:
                raise DataError(
                    "sample of another shape",
                    where=sample.row["sample_id"],
                    got=f"{sample.array.shape} {sample.array.dtype}",
                    allowed=f"{shape} {dtype}",
                )
            if sample.row["sample_id"] <= last:
                raise DataError("sample ids out of order or twice", where=sample.row["sample_id"])
            last = sample.row["sample_id"]
            number, offset = divmod(n, per_shard)
            if offset == 0:
                size = min(per_shard, count - n)
                shard = np.lib.format.open_memmap(folder / "shards" / f"{number:05d}.npy", mode="w+", dtype=dtype, shape=(size, *shape))
            assert shard is not None
            shard[offset] = sample.array
            facts = {} if "content_hash" in sample.row else content_facts(sample.array)  # ingest's workers have them already
            rows.append({name: None for name in MANIFEST} | sample.row | facts | {"shard": number, "offset": offset})
        if len(rows) != count:
            raise DataError("fewer samples than announced", where=str(path), got=len(rows), allowed=count)
        if isinstance(shard, np.memmap):
            shard.flush()
        unknown = set().union(*(row.keys() for row in rows)) - set(MANIFEST) if rows else set()
        if unknown:
            raise DataError("columns outside the manifest contract", where=str(path), got=sorted(unknown))
        pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(MANIFEST)), folder / "manifest.parquet", coerce_timestamps="us")
        quarantine = sorted(quarantine, key=lambda q: (q["file"], q["reason"]))
        pq.write_table(pa.Table.from_pylist(quarantine, schema=arrow_schema(QUARANTINE)), folder / "quarantine.parquet")
        info = {
            "schema_version": SCHEMA_VERSION,
            "disease": spec.name,
            "spec_digest": spec.digest,
            "shape": list(shape),
            "dtype": dtype.name,
            "synthetic": any(bool(row["synthetic"]) for row in rows),
            "provenance": provenance,
            "counts": {
                "samples": len(rows),
                "groups": len({row["group_id"] for row in rows}),
                "devices": len({row["device_key"] for row in rows}),
                "quarantined": len(quarantine),
                **{split: sum(row["split"] == split for row in rows) for split in spec.manifest_splits},
            },
        }
        (folder / "dataset.json").write_text(json.dumps(info, indent=1, sort_keys=True), encoding="utf-8")
    return info


def content_facts(array: NDArray[Any]) -> dict[str, Any]:
    """What validate needs to know of the pixels without reading them again."""
    array = np.ascontiguousarray(array)
    return {
        "content_hash": hashlib.sha256(array.tobytes()).hexdigest(),
        "near_hash": near_hash(array),
        "constant_share": _commonest(array) / array.size if array.size else 1.0,
    }


def _commonest(array: NDArray[Any]) -> int:
    """How often the commonest value comes. Sorting would take most of the time of a slide's tile; bytes are counted, by PIL, which is quickest."""
    if array.dtype != np.uint8:
        return int(np.unique(array, return_counts=True)[1].max())
    from PIL import Image

    return max(Image.frombuffer("L", (array.size, 1), array, "raw", "L", 0, 1).histogram())


def near_hash(array: NDArray[Any]) -> str:
    """64-bit difference hash as 16 hexadecimal characters: block means on an 8 x 9 grid, each compared with its right neighbour.

    Scaling, brightness and mild compression keep it; the Hamming distance counts differing bits. Tables and one-dimensional windows are
    laid out row by row first, and what has fewer rows or columns than the grid is repeated.
    """
    plane = np.asarray(array)
    plane = plane.reshape(-1, plane.shape[-1]) if plane.ndim > 1 else plane.reshape(1, -1)
    if plane.shape[0] < 8 or plane.shape[1] < 9:
        plane = np.repeat(np.repeat(plane, -(-8 // plane.shape[0]), axis=0), -(-9 // plane.shape[1]), axis=1)
    rows, cols = (np.linspace(0, size, blocks + 1).astype(int) for size, blocks in zip(plane.shape, (8, 9), strict=True))
    if plane.dtype == np.uint8 and plane.size < 1 << 24:  # the same sums, exact in either type, in a third of the time
        sums = np.add.reduceat(np.add.reduceat(plane, cols[:-1], axis=1, dtype=np.uint32), rows[:-1], axis=0).astype(np.float64)
    else:
        sums = np.add.reduceat(np.add.reduceat(plane, rows[:-1], axis=0, dtype=np.float64), cols[:-1], axis=1)
    means = sums / np.diff(rows)[:, None] / np.diff(cols)
    return np.packbits(means[:, 1:] > means[:, :-1]).tobytes().hex()


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

        return pq.read_table(self.path / "quarantine.parquet").to_pandas()

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
