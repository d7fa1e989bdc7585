"""Which file of a folder a sample came from, and whether a folder can be of a disease at all, both without decoding anything.

Samples carry keyed hashes; who has the folder and the key can find the file again, and nobody else.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.errors import DataError
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from components.ingest.parts import Part, parts
from components.ingest.source import open_source
from serving.kinds import DICOM, HEAD, NIFTI, sniffed

if TYPE_CHECKING:
    import pandas as pd

WANTED = {"dicom-lidc": (DICOM,), "nifti-bids": (NIFTI,), "whole-slide": ("image/tiff", DICOM)}
"""Of readers that would otherwise open every file before they know: what one file at least must be. The others look for a table or a name first."""
LISTED, LOOKED = 20_000, 200
"""Files that are listed, and of these opened, before a folder is taken to be another one."""


def fitting(spec: DiseaseSpec, source: Path) -> None:
    """Raises DataError for a folder none of whose first files is of a kind that the disease's format has."""
    wanted = WANTED.get(spec.input.reader or "")
    if wanted is None:
        return
    found = list(islice((Path(folder) / name for folder, _, names in os.walk(source, followlinks=True) for name in sorted(names)), LISTED))
    looked = found[:: max(1, len(found) // LOOKED)]
    if not any(_kind(path) in wanted for path in looked) and not any(_kind(path) in wanted for path in found[:LOOKED]):
        raise DataError("another folder", where="FILE", got=f"none of {len(looked)} files in it", allowed=f"{spec.name}: {' or '.join(wanted)}")


def _kind(path: Path) -> str:
    try:
        with open(path, "rb") as handle:
            return sniffed(handle.read(HEAD))
    except OSError:
        return ""


def files_of(spec: DiseaseSpec, source: Path, manifest: pd.DataFrame, pseudonymiser: Pseudonymiser) -> dict[str, str]:
    """Sample id -> path within the folder, of a DICOM series its folder; samples whose file cannot be told are not in it."""
    found: dict[str, str] = {}
    for part in parts(spec, open_source(str(source))):
        own = manifest[manifest["split"] == part.name] if part.external else manifest[~manifest["split"].isin([e.split for e in spec.external])]
        found |= {sample: part.prefix + path for sample, path in _files_of(part, own, pseudonymiser).items()}
    return found


def _files_of(part: Part, manifest: pd.DataFrame, pseudonymiser: Pseudonymiser) -> dict[str, str]:
    items = part.source.items
    samples, series = set(manifest["sample_id"].astype(str)), manifest.set_index("sample_id")["series_id"].astype(str).to_dict()

    def sample_of(*names: str) -> str:
        own = pseudonymiser.id("sample", *names)
        return own if part.external is None else pseudonymiser.id("sample", part.name, own)  # as ingest hashes an external set's

    by_series = {pseudonymiser.id(domain, item.path): item.path for item in items for domain in ("recording", "slide-file")}
    folders: dict[str, str] = {}
    for item in items:  # one file of each folder tells its series
        folders.setdefault(os.path.dirname(item.path), item.path)
    for folder, path in folders.items():
        if (uid := _series(Path(part.source.root) / path)) is not None:
            by_series[pseudonymiser.id("series", uid)] = folder or path
    found = {str(sample): by_series[key] for sample, key in series.items() if key in by_series}
    for item in items:
        if (own := sample_of(item.path)) in samples:
            found[own] = item.path
    for item in items:
        if item.path.lower().endswith(".csv") and len(found) < len(samples):  # a row of a table
            for line in range(1, 2 * len(samples) + 2):
                if (own := sample_of(item.path, str(line))) in samples:
                    found[own] = f"{item.path}:{line}"
    return found


def _series(path: Path) -> str | None:
    """Series Instance UID of a DICOM file; None for anything else."""
    if _kind(path) != DICOM:
        return None
    from components.core.imaging.fields import pydicom_silenced, quiet

    with quiet():
        try:
            head = pydicom_silenced().dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"], force=True)
        except Exception:  # pydicom's own have no common base
            return None
    return str(head.get("SeriesInstanceUID") or "") or None
