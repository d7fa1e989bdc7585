"""The tags that rules look at, out of the JSON headers of a series. What is missing or of another form is None or empty, never a guess."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.core.imaging import laterality
from serving.pacs.dicomweb import Tags, number, text, texts

Vector = tuple[float, ...]


@dataclass(frozen=True)
class ImageFacts:
    """One image.

    Args:
        position, orientation, pixel_mm: As in the header, mm and direction cosines; None where absent.
        burned_in: Whether pixels may name the patient; None where the header does not say.
        contrast: Whether a contrast agent is named.
        side: `L`, `R`, or "" where neither is said, or both are.
        acquisition: MR Acquisition Type, in capitals.
        echo_ms: Echo time; None where the header does not say.
    """

    sop: str
    sop_class: str
    series: str
    modality: str
    image_type: tuple[str, ...]
    body_part: str
    position: Vector | None
    orientation: Vector | None
    pixel_mm: Vector | None
    rows: int
    columns: int
    samples: int
    frames: int
    burned_in: bool | None
    contrast: bool
    side: str
    described: str
    patient: str
    acquisition: str = ""
    echo_ms: float | None = None


def of_image(row: Tags) -> ImageFacts:
    """The facts of one header."""
    side = laterality.side({"ImageLaterality": text(row, "00200062"), "Laterality": text(row, "00200060")})
    burned = text(row, "00280301").upper()
    return ImageFacts(
        sop=text(row, "00080018"),
        sop_class=text(row, "00080016"),
        series=text(row, "0020000E"),
        modality=text(row, "00080060").upper(),
        image_type=tuple(value.upper() for value in texts(row, "00080008")),
        body_part=text(row, "00180015").upper().replace(" ", ""),
        position=_vector(texts(row, "00200032"), 3),
        orientation=_vector(texts(row, "00200037"), 6),
        pixel_mm=_vector(texts(row, "00280030"), 2),
        rows=number(row, "00280010") or 0,
        columns=number(row, "00280011") or 0,
        samples=number(row, "00280002") or 1,
        frames=number(row, "00280008") or 1,
        burned_in={"YES": True, "NO": False}.get(burned),
        contrast=bool(text(row, "00180010")) or "00180012" in row,
        side=side if side in ("L", "R") else "",
        described=" ".join(text(row, tag) for tag in ("0008103E", "00181030", "00180024")).lower(),
        patient=text(row, "00100020"),
        acquisition=text(row, "00180023").upper(),
        echo_ms=echo[0] if (echo := _vector(texts(row, "00180081"), 1)) else None,
    )


def _vector(values: Sequence[str], n: int) -> Vector | None:
    try:
        found = tuple(float(v) for v in values)
    except ValueError:
        return None
    return found if len(found) == n and all(map(math.isfinite, found)) else None
