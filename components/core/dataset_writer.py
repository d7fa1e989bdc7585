"""Writing a dataset folder: shards, manifest and quarantine, atomically, with what the pixels of each sample say about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.atomic import atomic_dir
from components.core.dataset import MANIFEST, QUARANTINE, SCHEMA_VERSION, SHARD_BYTES, arrow_schema
from components.core.errors import DataError
from components.core.spec import DiseaseSpec


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
                "quarantined": sum(not row.get("skipped") for row in quarantine),
                "skipped": sum(bool(row.get("skipped")) for row in quarantine),
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
