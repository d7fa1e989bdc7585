"""What a model said of one study, whatever the disease: the input of report and overlay."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.core.chain.ct_volume import Triple
from serving import records
from serving.journal import Journal, milliseconds, now
from serving.predictor import Answered, Query

TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Attributes that every object needs, if only empty, and that some archives leave out."""


@dataclass(frozen=True)
class Place:
    """A nodule: where it is and how large. `mask` is True inside, over (slices, rows, columns) from `corner` on."""

    position_mm: Triple
    diameter_mm: float
    volume_mm3: float
    detection: float
    corner: tuple[int, int, int]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Item:
    """One sample: the predictor's answer, about which of the source images, and where in them.

    Args:
        heat: (rows, columns) in [0, 1], what speaks for the positive class; `method` says how it was found.
    """

    answer: dict[str, Any]
    images: tuple[int, ...]
    place: Place | None = None
    heat: NDArray[np.float32] | None = None
    method: str = ""


@dataclass(frozen=True)
class StudyAnswer:
    """All that goes back to the archive.

    Args:
        about: What an item is: a finding in a series, an image, or a series as a whole.
        sources: pydicom data sets of the judged images without pixels; of a series in the order of its slices.
        tools: Other algorithms that took part: name, version, what they were made from.
        queries, answered: Of each item, for the inference log.
        pictures: (rows, columns, 3) uint8 of each source, for overlays that are pictures.
        synthetic: Images, model or tools are simulated.
    """

    items: tuple[Item, ...]
    sources: tuple[Any, ...]
    about: Literal["series", "image", "volume"]
    synthetic: bool
    tools: tuple[tuple[str, str, str], ...] = ()
    pictures: tuple[NDArray[np.uint8], ...] = ()
    queries: tuple[Query, ...] = field(default=(), repr=False)
    answered: tuple[Answered, ...] = field(default=(), repr=False)


def log(answer: StudyAnswer, ids: Sequence[str], journal: Journal, *, known: frozenset[str], started: float) -> None:
    """Write the answers into the inference log, but those whose ids it already has."""
    at, latency = now(), milliseconds(started)
    written = []
    for own, query, found in zip(ids, answer.queries, answer.answered, strict=True):
        found.answer["request_id"] = own
        if own not in known:
            written.append(records.answered(at, latency, query, found))
    if written:
        journal.write(ids[0], written)
        journal.forget(ids[0])


def source(data: bytes) -> Any:
    """A file as pydicom data set without its pixels, its texts as Unicode, with empty values for what every object needs."""
    from components.core.imaging.fields import pydicom_silenced, quiet

    with quiet():
        found = pydicom_silenced().dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        found.decode()
        found.SpecificCharacterSet = "ISO_IR 192"  # highdicom knows no list of character sets whose first one is empty, which is the rule in Japan
        for keyword in TYPE_2:
            value = found.get(keyword)
            setattr(found, keyword, None if value is None else str(value))
    return found
