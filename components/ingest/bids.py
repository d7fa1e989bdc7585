"""What a BIDS tree says beside its volumes: names of files, the table of participants, and sidecars that inherit from above.

Brain Imaging Data Structure 1.9: entities in file names, participants.tsv, the inheritance principle for .json files.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from dataclasses import dataclass
from typing import Any

from components.core.errors import DataError
from components.core.imaging.errors import NotUsable
from components.ingest.source import Source

NAME = re.compile(r"(?P<stem>.+?)\.nii(\.gz)?", re.IGNORECASE)
SUFFIX = re.compile(r"(?:^|.*_)(?P<suffix>[A-Za-z0-9]+)")
ENTITY = re.compile(r"(?:^|_)(sub|ses)-([A-Za-z0-9]+)")
TABLE_BYTES, SIDECAR_BYTES = 64 << 20, 1 << 20
MISSING = {"", "n/a", "na", "nan", "none"}


@dataclass(frozen=True)
class Named:
    """What a volume's path says: `sub` and `ses` without their prefix ("" where absent), the suffix ("T1w")."""

    sub: str
    ses: str
    suffix: str


def named(path: str) -> Named | None:
    """None for what is no NIfTI file. The file's own name counts, then the folders above it."""
    stem = stem_of(path)
    if stem is None:
        return None
    entities = dict(ENTITY.findall("_".join(posixpath.dirname(path).split("/")))) | dict(ENTITY.findall(stem))
    suffix = SUFFIX.fullmatch(stem)
    return Named(entities.get("sub", ""), entities.get("ses", ""), suffix["suffix"] if suffix else "")


def stem_of(path: str) -> str | None:
    """File name without .nii or .nii.gz; None for another file."""
    found = NAME.fullmatch(posixpath.basename(path))
    return found["stem"] if found else None


@dataclass(frozen=True)
class Table:
    """A table of participants or of files.

    Args:
        file: Number of the file in the source.
        rows: (line, {column in small letters: value}); values that mean "none" are "".
    """

    file: int
    header: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def table(source: Source, number: int) -> Table:
    """Read a .tsv or .csv. Raises DataError when it is none."""
    item = source.items[number]
    where = "participants.tsv" if item.path.lower().endswith(".tsv") else "labels.csv"
    if item.size > TABLE_BYTES:
        raise DataError("table over 64 MB", where=where)
    try:
        with source.open(number) as handle:
            text = io.StringIO(handle.read().decode("utf-8-sig", errors="replace"), newline="")
        lines = csv.reader(text, delimiter="\t" if where.endswith(".tsv") else ",")
        header = tuple(name.strip().lower() for name in next(lines, []))
        rows = [(lines.line_num, [value.strip() for value in row]) for row in lines if any(value.strip() for value in row)]
    except (csv.Error, OSError):
        raise DataError("not a table", where=where) from None
    if len(header) < 2 or len(set(header)) != len(header):
        raise DataError("not a table of participants", where=where, got=f"{len(header)} columns", allowed="distinct column names, at least two")
    plain = (
        (line, dict(zip(header, ["" if value.lower() in MISSING else value for value in row] + [""] * (len(header) - len(row)), strict=False)))
        for line, row in rows
    )
    return Table(number, header, tuple(plain))


def sidecars(source: Source, path: str, name: Named) -> list[int]:
    """The .json files that speak of one volume, the most general first (inheritance principle)."""
    stem = stem_of(path) or ""
    found = []
    folder = posixpath.dirname(path)
    above = [""] if not folder else ["", *("/".join(folder.split("/")[: n + 1]) for n in range(folder.count("/") + 1))]
    sub, ses = f"sub-{name.sub}", f"sub-{name.sub}_ses-{name.ses}"
    for place in above:
        for own in dict.fromkeys((name.suffix, f"{sub}_{name.suffix}", f"{ses}_{name.suffix}", stem)):
            number = source.number(posixpath.join(place, f"{own}.json"))
            if number is not None:
                found.append(number)
    return found


def sidecar(source: Source, path: str, name: Named) -> dict[str, Any]:
    """All that the sidecars say, the nearest last. Raises NotUsable when one cannot be read."""
    facts: dict[str, Any] = {}
    for number in sidecars(source, path, name):
        try:
            if not 0 < source.items[number].size <= SIDECAR_BYTES:
                raise NotUsable("a sidecar that is no JSON object")
            with source.open(number) as handle:
                part = json.loads(handle.read())
        except (OSError, ValueError, RecursionError):
            raise NotUsable("a sidecar that is no JSON object") from None
        if not isinstance(part, dict):
            raise NotUsable("a sidecar that is no JSON object")
        facts |= part
    return facts


def text(facts: dict[str, Any], *keys: str) -> str:
    """The first of `keys` that is there, as text; of a list its entries."""
    for key in keys:
        value = facts.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, list) and value:
            return " ".join(str(v) for v in value if isinstance(v, str | int | float))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    return ""


def number(facts: dict[str, Any], key: str, low: float, high: float) -> float | None:
    """A number inside its bounds, or None."""
    value = facts.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high else None
