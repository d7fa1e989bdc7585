"""Taking records out of a log that others read and write meanwhile.

An erased record leaves a blank one of its kind in its place: lines are counted by their position (`incremental.py`), and a server holds its segment
open, so nothing may move. In a `.log` the line is overwritten where it stands, by a line of the same length that passes its checksum; a `.parquet`
is written anew and takes its name at once. Compaction waits (`quiet`), since it would copy what was there before.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.core.atomic import PARTIAL, atomic_file
from components.core.errors import DataError
from components.core.inference_log import manifest
from components.core.inference_log.events import RESPONSE
from components.core.inference_log.lines import parse
from components.core.inference_log.sealed import CHECKED, META, opened
from components.core.inference_log.segments import LOG, PARQUET, named, numbers, sync_folder
from components.core.inference_log.tables import ERASED

IDENTITY = ("patient", "study", "series", "request_id", "event_id")
BLANK = b'{"status":"' + ERASED.encode() + b'"}'
Match = Mapping[str, frozenset[str]]
"""Column -> values; a record is meant where one of its columns has one of them."""


@contextmanager
def quiet(folder: Path, *, alone: bool) -> Iterator[bool]:
    """Within the block nobody compacts (`alone`), or nobody erases.

    The lock is on the folder itself; False where a compaction finds an erasure at work.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(handle)


def related(path: str | Path, keys: frozenset[str], *, nobody: frozenset[str] = frozenset()) -> dict[str, frozenset[str]]:
    """What belongs to a patient by way of the log: every column of `IDENTITY` with its values.

    A study, series or event that a record of somebody else names too is left out: files without a study UID all share one hash.

    Args:
        keys: Of the patient.
        nobody: Hashes of empty values.
    """
    folder, own, events = Path(path), {name: set[str]() for name in IDENTITY}, set[str]()
    for record in _identities(folder):
        if record.get("patient") in keys:
            for name in IDENTITY:
                if (value := record.get(name)) is not None:
                    own[name].add(str(value))
    for record in _identities(folder):
        if record.get("patient") is not None and record.get("patient") not in keys:
            for name in ("study", "series"):
                own[name].discard(str(record.get(name)))
        elif record.get("event") == RESPONSE and str(record.get("request_id")) in own["request_id"]:
            events.add(str(record.get("event_id")))  # the collector's view of the patient's answers, which has no patient
    for record in _identities(folder) if events else ():
        if record.get("event") == RESPONSE and str(record.get("request_id")) not in own["request_id"]:
            events.discard(str(record.get("event_id")))
    own["study"] -= nobody
    own["series"] -= nobody
    return {name: frozenset(values) for name, values in own.items()} | {"patient": keys, "event_id": frozenset(events)}


def erase(path: str | Path, match: Match, texts: frozenset[bytes] = frozenset(), *, dry: bool = False) -> dict[str, int]:
    """Blank every record that is meant; readers and writers go on meanwhile.

    Args:
        match: Column -> values.
        texts: Damaged lines that hold one of these are blanked too.
        dry: Count, change nothing.

    Returns:
        File name -> records that went, or would go. Written synced to the disk. What `unsearched` names was not looked into.

    Raises:
        OSError: The folder cannot be written.
    """
    folder, found = Path(path), dict[str, int]()
    if not folder.is_dir():
        return found
    if dry:
        return _erase(folder, match, texts, dry=True)
    with quiet(folder, alone=True):
        for rubbish in folder.glob(f"[0-9]*{PARQUET}.*{PARTIAL}"):  # of a compaction or an erasure that was killed: both are shut out
            rubbish.unlink()
        found = _erase(folder, match, texts, dry=False)
        sync_folder(folder)
    return found


def meant(record: Mapping[str, Any], match: Match) -> bool:
    return any(str(record[name]) in values for name, values in match.items() if record.get(name) is not None)


def _erase(folder: Path, match: Match, texts: frozenset[bytes], *, dry: bool) -> dict[str, int]:
    found: dict[str, int] = {}
    for suffix, work in ((LOG, _lines), (PARQUET, _table)):
        for number in numbers(folder, suffix):
            segment = named(folder, number, suffix)
            if n := work(segment, match, texts, dry):
                found[segment.name] = n
    return found


def _identities(folder: Path) -> Iterator[dict[str, Any]]:
    """Who each record is about; logs first, since one may be compacted meanwhile."""
    if not folder.is_dir():
        return
    names = (*IDENTITY, "event")
    for number in numbers(folder, LOG):
        with suppress(FileNotFoundError), open(named(folder, number, LOG), "rb") as handle:
            for line in handle:
                if (record := parse(line)) is not None:
                    yield {name: record.get(name) for name in names}
    known = manifest.read(folder)
    for number in numbers(folder, PARQUET):
        batches: list[list[dict[str, Any]]] = []
        with suppress(DataError), opened(folder, number, known) as segment:
            held = [name for name in segment.file.schema_arrow.names if name in names]
            batches = [batch.to_pylist() for batch in segment.file.iter_batches(10_000, columns=held)]
        for batch in batches:
            yield from batch


def unsearched(path: str | Path) -> list[str]:
    """Names of compacted segments that cannot be read: nobody knows whom they hold. They are the operator's, to restore or to delete."""
    folder, found = Path(path), list[str]()
    if not folder.is_dir():
        return found
    known = manifest.read(folder)
    for number in numbers(folder, PARQUET):
        try:
            with opened(folder, number, known) as segment:
                for _ in segment.file.iter_batches(10_000):
                    pass
        except DataError:
            found.append(named(folder, number, PARQUET).name)
        except FileNotFoundError:
            continue
    return found


def _lines(path: Path, match: Match, texts: frozenset[bytes], dry: bool) -> int:
    """Overwrites lines where they stand. The last one of a living writer may still be on its way: what has no end is only damaged."""
    count = 0
    with open(path, "rb") as reading, open(path, "rb" if dry else "r+b", buffering=0) as handle:
        at = 0
        for line in reading:
            record = parse(line)
            wrong = record is None and any(text in line for text in texts)
            if wrong or (record is not None and meant(record, match)):
                count += 1
                if not dry:
                    os.pwrite(handle.fileno(), blank(len(line)) if line.endswith(b"\n") else b" " * len(line), at)
            at += len(line)
        if count and not dry:
            os.fsync(handle.fileno())
    return count


def blank(length: int) -> bytes:
    """A line of `length` bytes that says that a record stood here. JSON takes spaces after its object."""
    body = BLANK.ljust(length - 10)
    return b"%08x %s\n" % (zlib.crc32(body), body) if len(body) == length - 10 else b" " * (length - 1) + b"\n"


def _table(path: Path, match: Match, texts: frozenset[bytes], dry: bool) -> int:
    try:
        return _rows(path, match, dry)
    except DataError:  # told of by `unsearched`
        return 0


def _rows(path: Path, match: Match, dry: bool) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, number = path.parent, int(path.stem)
    with opened(folder, number, manifest.read(folder)) as segment:
        columns = [name for name in segment.file.schema_arrow.names if name in match]
        mask = _mask(segment.file.read(columns=columns), match)
        count = int(mask.sum())
        if not count or dry:
            return count
        facts = replace(segment.facts, erased=segment.facts.erased + count)
        whole = segment.file.read()
    fields = []
    for name, column in zip(whole.schema.names, whole.columns, strict=True):
        instead = ERASED if name == "status" else False if name == "abstain" else None
        rest = column.to_pylist()
        fields.append(pa.array([instead if away else value for away, value in zip(mask.tolist(), rest, strict=True)], type=column.type))
    about = json.dumps(asdict(facts) | {CHECKED: True}).encode()
    table = pa.Table.from_arrays(fields, schema=whole.schema.with_metadata({META: about}))
    with atomic_file(path, private=True) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
        with open(partial, "rb") as handle:
            os.fsync(handle.fileno())
            manifest.add(folder, number, manifest.SEALED, sha256=manifest.digest(handle), **asdict(facts))
    return count


def _mask(table: Any, match: Match) -> Any:
    import numpy as np

    mask = np.zeros(table.num_rows, bool)
    for name, values in match.items():
        if name in table.column_names and values:
            mask |= table[name].to_pandas().isin(values).to_numpy(bool)
    return mask
