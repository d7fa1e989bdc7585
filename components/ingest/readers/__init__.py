"""Readers, found by name: reader `dicom-lidc` of a spec is `dicom_lidc.py` in this folder. Adding one is one file with one function:

    read(job: Job) -> None

It runs its stages with `job.stage(...)`; what they find lies in the journal: samples as manifest rows (without split) with their arrays,
rejected files, and whatever a later stage needs. A row holds nothing that is not a number, a checked code, a vocabulary name or a
keyed hash. Its keys are columns of `components/core/dataset.py`; `given_split` carries a split that the source names.

An external set is read as a source of its own, paths relative to its folder; where `job.context.labelled` is false, labels may be missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from components.core.errors import SpecError
from components.ingest.job import Job


def kinds() -> list[str]:
    """All reader names, sorted."""
    return sorted(p.stem.replace("_", "-") for p in Path(__file__).parent.glob("[a-z]*.py"))


def reader(name: str) -> Callable[[Job], None]:
    """The `read` function of one reader."""
    if name not in kinds():
        raise SpecError("no such reader", where="input.reader", got=f"'{name}'", allowed=", ".join(kinds()))
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").read
