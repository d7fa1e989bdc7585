"""Where a reader would click: the middle of each nodule that the first reader outlined, slice by slice, of LIDC-style folders."""

from __future__ import annotations

from pathlib import Path

from components.core.imaging.header import read_header
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from components.ingest import lidc


def clicks(folder: Path, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[tuple[Path, float, float]]:
    """(file, row, column) of the largest outline of every nodule, sorted by file."""
    found: list[tuple[Path, float, float]] = []
    for marks_file in sorted(folder.rglob("*.xml")):
        _, marks, _ = lidc.parse(marks_file.read_bytes(), pseudonymiser)
        first = min((mark.reader for mark in marks), default=0)
        wanted = {o.sop: o for o in (max(m.outlines, key=lambda o: o.area) for m in marks if m.reader == first and m.outlines)}
        for path in sorted(marks_file.parent.glob("*.dcm")):
            with open(path, "rb") as handle:
                sop = read_header(handle, size=path.stat().st_size, spec=spec, pseudonymiser=pseudonymiser).sop
            if sop in wanted:
                found.append((path, wanted[sop].y, wanted[sop].x))
    return found
