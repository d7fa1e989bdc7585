"""Device profiles and the image quality of studies, measured in one pass over the decoded samples."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import image_quality
from components.core.devices import ProfileAccumulator
from components.core.filtered import Filtered
from components.core.spec import DiseaseSpec
from components.core.step import Progress
from components.ingest.job import Context
from components.ingest.journal import Journal, arrays_path, pieces
from components.ingest.workers import Workers

CHUNK = 256  # samples of one task
BLOCK = 1 << 18  # values filtered at once: they and what is made of them stay in the processor's cache
OPEN_FILES = 64
Device = tuple[str, str]  # key, software
Chunk = tuple[tuple[str, str | None] | None, list[tuple[str, int, str | None]]]


class StudyQuality:
    """Image quality of each study: of every figure the lower median of its samples'. A table has none.

    Memory grows with studies: samples' figures are dropped when the last of their study is in. Of a study that two sets of the source share, the
    first set's samples count.
    """

    def __init__(self, spec: DiseaseSpec) -> None:
        self.names = () if spec.input.layout == "table" else image_quality.names(spec)
        self._left: Counter[str] = Counter()
        self._open: dict[str, list[NDArray[np.float64]]] = {}
        self._done: dict[str, tuple[float, ...]] = {}

    def expect(self, studies: Iterable[str | None]) -> None:
        """Announce the study of every sample of a set."""
        self._left.update(study for study in studies if study)

    def take(self, studies: Sequence[str | None], figures: NDArray[np.float64]) -> None:
        """(n, figures) of n announced samples, in any order."""
        for study, row in zip(studies, figures, strict=True):
            if not study:
                continue
            self._left[study] -= 1
            self._open.setdefault(study, []).append(row.copy())
            if not self._left[study]:
                del self._left[study]
                rows = np.sort(np.stack(self._open.pop(study)), axis=0)
                self._done.setdefault(study, tuple(rows[(len(rows) - 1) // 2].tolist()))

    def of_studies(self) -> dict[str, dict[str, float]] | None:
        """{study: {figure: value}}; None for tables."""
        return {study: dict(zip(self.names, values, strict=True)) for study, values in self._done.items()} if self.names else None


def measure(
    spec: DiseaseSpec, journal: Journal, pool: Workers, quality: StudyQuality, *, profiled: Mapping[str, bool] | None
) -> list[dict[str, Any]]:
    """One row for each (device, software), measured on the samples that `profiled` names; event time: its first acquisition of any sample.

    Args:
        quality: Takes the figures of every sample.
        profiled: {sample id: counts for its device}. None for an external set, which is not profiled: a device that only it knows meets the model
            as it would in another hospital, without a profile.
    """
    first: dict[Device, str | None] = {}
    where: dict[Device, list[tuple[str, int, str | None]]] = {}
    others: list[tuple[str, int, str | None]] = []
    for task, place, row in journal.samples():
        sample = (task, place, row.get("series_id"))
        if profiled is None:
            others.append(sample)
            continue
        device = (row["device_key"], row.get("software") or "")
        at = row.get("acquired_at")
        first[device] = min((t for t in (first.get(device), at) if t is not None), default=None)
        (where.setdefault(device, []) if profiled[row["sample_id"]] else others).append(sample)
    by_time: dict[tuple[str, str | None], list[Device]] = {}
    for device in sorted(where):  # two versions without dates, or of one moment, cannot follow each other: they are one profile
        by_time.setdefault((device[0], first[device]), []).append(device)
    chunks: list[Chunk] = [
        (key, chunk) for key, devices in by_time.items() for chunk in pieces((p for d in devices for p in _in_order(where[d])), CHUNK)
    ]
    if quality.names:
        quality.expect(study for samples in (*where.values(), others) for _, _, study in samples)
        chunks += [(None, chunk) for chunk in pieces(_in_order([s for s in others if s[2]]), CHUNK)]
    progress = Progress("device profiles", len(chunks))
    whole: dict[tuple[str, str | None], ProfileAccumulator] = {}
    for (key, chunk), (part, figures) in pool.map(_measured, chunks):
        if key is not None:
            whole.setdefault(key, ProfileAccumulator(spec)).merge(part)
        if quality.names:
            quality.take([study for _, _, study in chunk], figures)
        progress.advance()
    rows = []
    for key, accumulator in sorted(whole.items(), key=lambda kv: (kv[0][0], kv[0][1] or "")):
        when = datetime.fromisoformat(key[1]).astimezone(UTC) if key[1] else None
        rows.append(accumulator.finish(key[0], by_time[key][0][1]).to_dict() | {"event_timestamp": when})
    return rows


def _in_order(samples: Iterable[tuple[str, int, str | None]]) -> list[tuple[str, int, str | None]]:
    """As they lie in the files of finished tasks."""
    return sorted(samples, key=lambda sample: sample[:2])


def _measured(context: Context, chunk: Chunk) -> tuple[ProfileAccumulator | None, NDArray[np.float64] | None]:
    """In a worker: what a chunk adds to its device's profile, where it counts for one, and (n, figures) of its samples."""
    spec, (key, samples) = context.spec, chunk
    accumulator = ProfileAccumulator(spec) if key is not None else None
    names = () if spec.input.layout == "table" else image_quality.names(spec)
    found = []
    with Stored(context) as stored:
        for block in pieces(samples, max(1, BLOCK // int(np.prod(spec.input.shape)))):
            of = Filtered(np.stack([stored.read(task, place) for task, place, _ in block]), spec)
            if accumulator is not None:
                accumulator.add(of)
            if names:
                figures = image_quality.figures(of, spec)
                found.append(np.stack([figures[name] for name in names], axis=1))
    return accumulator, np.concatenate(found) if found else None


class Stored:
    """Reads the arrays of finished tasks; keeps the latest files open, since samples come in another order than they were made."""

    def __init__(self, context: Context) -> None:
        self._folder = context.folder
        self._shape, self._dtype = tuple(context.spec.input.shape), np.dtype(context.spec.input.dtype)
        self._size = int(np.prod(self._shape)) * self._dtype.itemsize
        self._open: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, task: str, place: int) -> NDArray[Any]:
        """One sample, `spec.input.shape`."""
        if task not in self._open:
            if len(self._open) >= OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[task] = os.open(arrays_path(self._folder, task), os.O_RDONLY)
        self._open.move_to_end(task)
        return np.frombuffer(os.pread(self._open[task], self._size, place * self._size), dtype=self._dtype).reshape(self._shape)
