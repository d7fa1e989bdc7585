"""Places and sides in words: the one module that turns patient coordinates, direction cosines and laterality codes into text.

Coordinates are DICOM's patient-based ones, mm, L P S (x grows to the patient's left, y to the back, z to the head). They belong to the patient and
not to the table, so lying on the belly or feet first changes no word; what it changes is the cosines, which are read here. A position alone says
where a point lies from the origin of its frame, which scanners put where they like: it is a place in the frame, never one in the body, and no word of
this module names an organ, a lobe or a side of the body from it.

Source:
    DICOM PS3.3 C.7.6.2.1.1 (coordinates), C.7.6.1.1.1 (Patient Orientation), C.7.3.1.1.2 (Patient Position), C.7.3.1 and C.8 (laterality codes);
    NIfTI-1 (world coordinates are R A S).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))
"""Of each axis of LPS the letter of its negative and of its positive direction, as Patient Orientation spells them."""
WORDS = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "F": "inferior", "H": "superior"}
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "F": "H", "H": "F"}
OBLIQUE = 0.2588
"""Sine of 15 degrees: an axis that leans less than this towards a direction does not name it."""
UNIT = 1e-2
"""How far the length of a direction, or the product of two, may be off before the header contradicts itself."""
SIDES = {"L": "left", "R": "right", "B": "both sides"}
LATERALITY = ("FrameLaterality", "ImageLaterality", "Laterality")
VIEWS = ("CC", "MLO", "ML", "LM", "LMO", "XCC", "XCCL", "XCCM", "SIO", "FB", "AP", "PA", "LL", "RL")
"""Defined terms of View Position that are said; any other text is not."""


def offset(position_mm: Sequence[float], *, ras: bool = False) -> str:
    """Where a point lies from the origin of its frame of reference, e.g. `7 mm right, 57 mm anterior, 108 mm inferior of the frame's origin`.

    Args:
        position_mm: (3,) LPS, or RAS as NIfTI has it.

    Returns:
        Whole millimetres; "at the frame's origin" where all of them are 0, "" for what is no finite position.
    """
    parts = _parts(position_mm, ras)
    if parts is None:
        return ""
    told = ", ".join(f"{mm} mm {WORDS[letter]}" for letter, mm in parts if mm)
    return f"{told} of the frame's origin" if told else "at the frame's origin"


def letters(position_mm: Sequence[float], *, ras: bool = False) -> str:
    """The same for a narrow table, e.g. `R 7, A 57, F 108`; 0 keeps no letter."""
    parts = _parts(position_mm, ras)
    return "" if parts is None else ", ".join(f"{letter} {mm}" if mm else "0" for letter, mm in parts)


def _parts(position_mm: Sequence[float], ras: bool) -> list[tuple[str, int]] | None:
    values = [float(v) for v in position_mm]
    if len(values) != 3 or not all(map(math.isfinite, values)):
        return None
    if ras:
        values = [-values[0], -values[1], values[2]]
    return [(pair[value > 0], round(abs(value))) for pair, value in zip(LETTERS, values, strict=True)]


def direction(cosines: Sequence[float]) -> str:
    """Where a direction points, as Patient Orientation spells it: `L`, or `LA` for an oblique one, the nearer first; "" for what is no direction."""
    values = [float(v) for v in cosines]
    if len(values) != 3 or not all(map(math.isfinite, values)) or abs(math.hypot(*values) - 1) > UNIT:
        return ""
    ranked = sorted(range(3), key=lambda axis: (-abs(values[axis]), axis))
    return "".join(LETTERS[axis][values[axis] > 0] for n, axis in enumerate(ranked) if n == 0 or abs(values[axis]) > OBLIQUE)


def opposite(text: str) -> str:
    """The direction that points the other way: of `LA` it is `RP`."""
    return "".join(OPPOSITE[letter] for letter in text)


def edges(orientation: Sequence[float] | None) -> tuple[str, str, str, str] | None:
    """What stands at the left, right, top and bottom edge of an image as it is drawn, its first pixel in the upper left corner.

    Args:
        orientation: (6,) Image Orientation (Patient): where columns grow, then where rows grow.

    Returns:
        None where it is absent or contradicts itself: two directions that are not unit vectors at right angles.
    """
    if orientation is None or len(orientation) != 6:
        return None
    across, down = [float(v) for v in orientation[:3]], [float(v) for v in orientation[3:]]
    right, bottom = direction(across), direction(down)
    if not right or not bottom or abs(sum(a * b for a, b in zip(across, down, strict=True))) > UNIT:
        return None
    return opposite(right), right, opposite(bottom), bottom


def edges_of_grid(affine: Any) -> tuple[str, str, str, str] | None:
    """The same of the last two axes of a volume in memory as (depth, rows, columns), from its affine to RAS of axes (columns, rows, depth).

    Args:
        affine: (4, 4) or (3, 3), NIfTI's.
    """
    columns: list[float] = []
    for axis in (0, 1):
        step = [float(affine[row][axis]) for row in range(3)]
        length = math.hypot(*step)
        if not math.isfinite(length) or length == 0:
            return None
        columns += [-step[0] / length, -step[1] / length, step[2] / length]
    return edges(columns)


def side(header: Any) -> str:
    """`L`, `R` or `B` where an image says of which side it is; "" where it does not, says that the organ is not paired, or says two things.

    Args:
        header: A pydicom data set, or laterality codes by keyword. Frame Laterality of an enhanced object's shared groups is looked up too.
    """
    found = {str(value).strip().upper() for value in (*_told(header), *_of_frames(header)) if value not in (None, "")}
    return next(iter(found)) if len(found) == 1 and found <= SIDES.keys() else ""


def _told(header: Any) -> list[Any]:
    return [header.get(name) for name in LATERALITY]


def _of_frames(header: Any) -> list[Any]:
    """Of enhanced objects: every frame must agree, or the whole says nothing."""
    groups = [*(header.get("SharedFunctionalGroupsSequence") or ()), *(header.get("PerFrameFunctionalGroupsSequence") or ())]
    return [item.get("FrameLaterality") for group in groups for item in group.get("FrameAnatomySequence") or ()]


def organ(header: Any, kind: str) -> str:
    """`right eye (OD)`, `left breast, CC`, `right`; "" where the image does not say.

    Args:
        kind: `eye`, `breast`, or "" for any other organ.
    """
    told = side(header)
    if kind == "eye":
        return {"R": "right eye (OD)", "L": "left eye (OS)", "B": "both eyes (OU)"}.get(told, "")
    if kind == "breast":
        where = {"R": "right breast", "L": "left breast", "B": "both breasts"}.get(told, "")
        return ", ".join(part for part in (where, _view(header)) if part)
    return SIDES.get(told, "")


def _view(header: Any) -> str:
    text = str(header.get("ViewPosition") or "").strip().upper()
    return text if text in VIEWS else ""


KINDS: Mapping[str, str] = {"fundus": "eye", "OP": "eye", "OPT": "eye", "MG": "breast"}
"""Modality of a spec, or of a header -> the paired organ that its images show."""
