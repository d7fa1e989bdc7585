"""Read a source, take persons out of it, decode it once, and measure its devices."""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from components.core import code
from components.core.atomic import PARTIAL
from components.core.cores import available_cores
from components.core.dataset import SPLITS
from components.core.dataset_writer import Sample, write_dataset
from components.core.errors import DataError, DxflowError
from components.core.folds import public_names, validation_groups, validation_share
from components.core.home import home, work_dir
from components.core.pseudonym import Pseudonymiser, load_pseudonymiser
from components.core.spec import DiseaseSpec
from components.core.step import Progress, emit
from components.ingest import readers, refused, remarks, split
from components.ingest.deidentify import known_names, provenance, safe_path
from components.ingest.job import Context, Job
from components.ingest.journal import Journal
from components.ingest.measure import Stored, StudyQuality, measure
from components.ingest.parts import Part, parts
from components.ingest.source import Source, open_source
from components.ingest.study_facts import StudyFacts
from components.ingest.workers import Workers

ROOMS = ("components/core", "components/ingest", "feature_store")  # whatever of them decides an output is in the key of the unfinished work
PRELOAD = ("components.ingest.readers.dicom_lidc", "components.ingest.measure", "pydicom.filereader", "pydicom.pixels")


def ingest(spec: DiseaseSpec, source: str, *, dataset: Path, features: Path, workers: int | None = None) -> dict[str, Any]:
    """Write `dataset` and the feature repository of its devices; both appear whole or not at all.

    A run that was killed goes on where it stood when it is started again with the same spec, source, key and code.

    Args:
        source: A folder, a file, or `s3://bucket/prefix`.
        workers: Processes; None for one per core.

    Returns:
        The contents of dataset.json.

    Raises:
        DataError: Nothing usable, or more damage than `spec.limits.quarantine_share`.
    """
    pseudonymiser, made = load_pseudonymiser()
    if made:
        emit("warning", text=f"made a pseudonym key in {home()}: keep it, without it the same scanner gets another name")
    listed = open_source(source)
    _remove_abandoned(dataset, features)
    _tell_links(listed)
    divided = parts(spec, listed)
    found = [(part, readers.reader(part.reader(spec))) for part in divided]
    key = _key(spec, listed, pseudonymiser)
    with _work(key) as folder, ExitStack() as stack:
        whole: list[_Read] = []
        quality = StudyQuality(spec)
        for part, reader in found:
            one = _Read(part, folder if part.external is None else folder / part.name, spec, pseudonymiser)
            stack.callback(one.journal.close)
            whole.append(one)
            with Workers(workers or available_cores(), one.context, preload=PRELOAD) as pool:
                job = Job(one.context, one.journal, pool)
                reader(job)
                _check(one, job, key)
                if part.external is None:
                    places = _places(spec, one.journal)
                    profiled = {sample: place.split != "test" for sample, place in places.items()}
                    profiles = measure(spec, one.journal, pool, quality, profiled=profiled)
                else:
                    measure(spec, one.journal, pool, quality, profiled=None)
        views = StudyFacts()
        info = _write(spec, listed, whole, places, pseudonymiser, dataset, views)
        from feature_store.store import write_profiles

        write_profiles(features, profiles, views=views.rows(quality.of_studies()))
    return info


@dataclass(frozen=True)
class _Place:
    """Where one sample of the main part belongs."""

    split: str
    fold: int | None = None


class _Read:
    """One part of the source with what has been read of it so far."""

    def __init__(self, part: Part, folder: Path, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> None:
        folder.mkdir(exist_ok=True)
        self.part, self.journal = part, Journal(folder)
        self.context = Context(part.spec(spec), part.source, pseudonymiser, folder, part.external)

    def samples(self) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
        """(sample id, task, place, row) by sample id. Two sources may name their files alike, so an external set's ids are hashed once more."""
        if self.part.external is None:
            return ((row["sample_id"], task, place, row) for task, place, row in self.journal.samples())
        own = []
        for task, place, row in self.journal.samples():
            row["sample_id"] = self.context.pseudonymiser.id("sample", self.part.name, row["sample_id"])
            own.append((row["sample_id"], task, place, row))
        return iter(sorted(own, key=lambda found: found[0]))

    def refused(self) -> Iterator[dict[str, Any]]:
        """Rows of the quarantine: what could not be used, under paths that name nobody."""
        words, items = self.journal.words(), self.part.source.items
        known = known_names(self.context.spec)
        for r in self.journal.rejected():
            path = safe_path(self.part.prefix + items[r.file].path, words, self.context.pseudonymiser, known)
            yield {"file": path, "reason": r.reason, "offset": r.offset, "skipped": r.skipped}


def _remove_abandoned(*outputs: Path) -> None:
    """Delete half-written outputs of processes that are gone; a live one's stay."""
    for output in outputs:
        for entry in output.parent.glob(f"{output.name}.*{PARTIAL}"):
            owner = entry.name.removesuffix(PARTIAL).rsplit(".", 1)[-1]
            if owner.isdecimal() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(entry, ignore_errors=True)


def _key(spec: DiseaseSpec, listed: Source, pseudonymiser: Pseudonymiser) -> str:
    """A hash of everything that decides what ingest writes."""
    digest = hashlib.sha256()
    for part in (spec.digest, listed.root, listed.fingerprint, pseudonymiser.fingerprint):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(code.digest(Path(__file__).resolve().parents[2], ROOMS).encode())
    return digest.hexdigest()


def _tell_links(listed: Source) -> None:
    """Warn of what the listing could not follow: its files are missing without anybody having taken them away."""
    absent = sum(item.fingerprint == "absent" for item in listed.items)
    for n, what in (
        (absent, "links lead nowhere"),
        (listed.links.unreadable, "folders may not be read"),
        (len(listed.links.again), "links lead to folders that are read under another name already"),
    ):
        if n:
            emit("warning", text=f"of the source {n} {what}")


@contextmanager
def _work(key: str) -> Iterator[Path]:
    """The folder of unfinished work, held by one process at a time; it goes when the work ends, well or with a DxflowError."""
    folder = work_dir("ingest", key)
    with ExitStack() as stack:
        lock = stack.enter_context(open(folder / ".lock", "w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # the same ingest runs beside this one: work apart, the results are equal
            folder = work_dir("ingest", f"{os.getpid()}-{key}")
        try:
            yield folder
        except DxflowError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _check(one: _Read, job: Job, key: str) -> None:
    """Tell what was left empty, and see that nothing is lost.

    Raises:
        DataError: Two samples with one id, something of the source that is neither a sample nor has a reason, more damage than the limit, or no
            sample. The last two name the three commonest reasons and the list of all.
    """
    spec, journal, part = job.context.spec, job.journal, one.part
    where = f"--source: {part.external.source}" if part.external else "--source"
    for name, n in (journal.notes() | {remarks.CASE: journal.alike("person")}).items():
        if name in remarks.TOLD and n:
            emit("warning", text=f"{n} {name}")
    if twice := journal.collisions():
        raise DataError("samples that share an id with another", where=where, got=twice, allowed="every sample told apart by its path or row")
    if job.announced is not None and job.announced != (accounted := journal.count() + journal.refused(job.unit)):
        raise DataError("rows or files that are neither samples nor refused", where=where, got=f"{job.announced} read, {accounted} accounted for")
    damaged, of = journal.damaged(job.unit), len(job.context.source.items) if job.rows is None else max(1, job.rows)
    if damaged > spec.limits.quarantine_share * of:
        reasons = _commonest([(reason, n) for reason, n, skipped in journal.reasons(job.unit) if not skipped])
        raise DataError(
            "too much of the source is unusable",
            where=where,
            got=f"{damaged} of {of} ({damaged / of:.1%}): {reasons}; all of them in {_listed(one, key)}",
            allowed=f"limits.quarantine_share = {spec.limits.quarantine_share:g}",
        )
    if not journal.count():
        told = [_commonest([(reason, n) for reason, n, _ in journal.reasons(job.unit)])]
        told = ", ".join(filter(None, told + [f"{name} ({n})" for name, n in journal.notes().items() if n]))
        got = f"{len(job.context.source.items)} files: {told or 'nothing to read'}; all of them in {_listed(one, key)}"
        raise DataError("no usable sample", where=where, got=got)


def _commonest(counts: list[tuple[str, int]], shown: int = 3) -> str:
    """The commonest reasons with their counts, and how many have others, so that the counts add up."""
    text = [f"{reason} ({n})" for reason, n in counts[:shown]]
    others = sum(n for _, n in counts[shown:])
    return ", ".join(text + [f"other reasons ({others})"] * (others > 0))


def _listed(one: _Read, key: str) -> str:
    """Where the list of all that is refused was kept."""
    try:
        return str(refused.keep(one.context.spec.name, key, one.refused()))
    except OSError as error:  # the message is worth more than the list
        return f"no list: {type(error).__name__}"


def _places(spec: DiseaseSpec, journal: Journal) -> dict[str, _Place]:
    """{sample_id: place}."""
    rows = [(r["sample_id"], r["group_id"], r["device_key"], _stratum(r), r.get("given_split"), r["content_hash"]) for _, _, r in journal.samples()]
    if spec.split.given:
        if missing := sum(row[4] not in SPLITS for row in rows):
            raise DataError("samples without a given split", where="split.given", got=f"{missing} of {len(rows)}", allowed=", ".join(SPLITS))
        if spec.split.grouping != "none":
            _uncut(rows)
        return {row[0]: _Place(str(row[4])) for row in rows}
    ids, groups, devices, labels, _, contents = zip(*rows, strict=True)
    names, of_device = public_names(groups, devices, contents, labels)
    groups, devices = [names[group] for group in groups], [of_device[device] for device in devices]
    if spec.split.folds == 1:
        of = split.assign(groups, devices, labels, rule=spec.split, name=spec.name)
        return {sample: _Place(of[group]) for sample, group in zip(ids, groups, strict=True)}
    fold = split.assign_folds(groups, devices, labels, folds=spec.split.folds, name=spec.name)
    val = validation_groups(groups, labels, devices, share=validation_share(spec.split), key=f"{spec.name}/registered")
    return {sample: _Place("val" if group in val else "train", fold[group]) for sample, group in zip(ids, groups, strict=True)}


def _stratum(row: dict[str, Any]) -> int | None:
    """The class, or for multi-label the first class that holds."""
    if row.get("labels") is not None:
        return next((i for i, value in enumerate(row["labels"]) if value > 0), -1)
    return row.get("label")


def _uncut(rows: list[tuple[Any, ...]]) -> None:
    seen: dict[str, str] = {}
    cut = {row[1] for row in rows if seen.setdefault(row[1], row[4]) != row[4]}
    if cut:
        raise DataError("the given split cuts through groups", where="split.given", got=f"{len(cut)} groups", allowed="each group in one split")


def _write(
    spec: DiseaseSpec, listed: Source, whole: list[_Read], places: dict[str, _Place], pseudonymiser: Pseudonymiser, dataset: Path, views: StudyFacts
) -> dict[str, Any]:
    quarantine = [row for one in whole for row in one.refused()]
    listing = hashlib.sha256("\n".join(f"{item.path}\0{item.size}" for item in listed.items).encode("utf-8", "surrogateescape")).hexdigest()
    sizes = [one.journal.count() for one in whole]
    facts: dict[str, Any] = {
        "reader": spec.input.reader,
        "source": {
            "files": len(listed.items),
            "bytes": listed.bytes,
            "listing": pseudonymiser.id("listing", listing),
            "links": {"folders": listed.links.folders, "leaving": listed.links.leaving, "again": len(listed.links.again)},
        },
        "deidentification": provenance(pseudonymiser),
        "notes": whole[0].journal.notes(),
    }
    if spec.split.folds != 1:
        facts["folds"] = len({place.fold for place in places.values()})
    if spec.external:
        there = {one.part.name: (n, one.journal.notes()) for one, n in zip(whole, sizes, strict=True)}
        facts["external"] = {
            e.name: {"role": e.role, "split": e.split, "samples": there.get(e.split, (0, {}))[0], "missing": e.split not in there}
            | {"notes": there.get(e.split, (0, {}))[1]}
            for e in spec.external
        }
    progress = Progress("samples", sum(sizes))

    def samples(stored: list[Stored]) -> Iterator[Sample]:
        streams = [zip(one.samples(), itertools.repeat(n)) for n, one in enumerate(whole)]
        for (sample_id, task, place, row), n in heapq.merge(*streams, key=lambda found: found[0][0]):
            external = whole[n].part.external
            where = places[sample_id] if external is None else _Place(external.split)
            row["split"], row["fold"] = where.split, where.fold
            row.pop("given_split", None)
            if row.get("acquired_at"):
                row["acquired_at"] = datetime.fromisoformat(row["acquired_at"])
            views.take(row)
            yield Sample(row, stored[n].read(task, place))
            progress.advance()

    with ExitStack() as stack:
        stored = [stack.enter_context(Stored(one.context)) for one in whole]
        return write_dataset(dataset, spec, samples(stored), count=sum(sizes), quarantine=quarantine, provenance=facts)
