"""Radiologists' marks of the LIDC-IDRI collection: read from XML, matched over readers into nodules, labelled.

Source:
    Armato et al., Medical Physics 2011, doi:10.1118/1.3528204. Up to four readers outlined each nodule of 3 mm or more and rated its
    malignancy from 1 to 5. Nothing in the files says which marks of two readers mean the same nodule.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from components.core.imaging.errors import NotUsable
from components.core.pseudonym import Pseudonymiser

XML_BYTES = 64 << 20
POINTS = 200_000
MATCH_MM = 3.0  # marks of two readers whose centres are nearer than this mean one nodule, however small it is
READERS = 3  # opinions that a label needs


@dataclass(frozen=True)
class Outline:
    """One slice of one reader's mark: pseudonym of the image, z in mm, centroid column and row, area in pixels."""

    sop: str
    z_mm: float
    x: float
    y: float
    area: float


@dataclass(frozen=True)
class Mark:
    """One reader's nodule of 3 mm or more."""

    reader: int
    malignancy: int
    outlines: tuple[Outline, ...]

    def to_json(self) -> list[Any]:
        return [self.reader, self.malignancy, [[o.sop, o.z_mm, o.x, o.y, o.area] for o in self.outlines]]

    @classmethod
    def from_json(cls, raw: list[Any]) -> Mark:
        return cls(raw[0], raw[1], tuple(Outline(*o) for o in raw[2]))


def parse(data: bytes, pseudonymiser: Pseudonymiser) -> tuple[str, list[Mark], set[str]]:
    """One file: pseudonym of its series, marks with an outline and a malignancy, and the UIDs in it (in clear: not to be kept).

    Raises:
        NotUsable: Not XML, not an LIDC reading of a CT series, or damaged.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    if len(data) > XML_BYTES:
        raise NotUsable("XML over 64 MB")
    try:
        root = fromstring(data)
    except ParseError as error:
        raise NotUsable("XML that does not parse", offset=_offset(data, error.position)) from None
    except (DefusedXmlException, ValueError, LookupError):
        raise NotUsable("XML with entities or an unknown encoding") from None
    if _name(root) != "LidcReadMessage":
        raise NotUsable("XML other than LIDC readings", skipped=True)
    series = next((e.text or "" for e in root.iter() if _name(e) in ("SeriesInstanceUid", "SeriesInstanceUID", "CTSeriesInstanceUid")), "").strip()
    if not series:
        raise NotUsable("LIDC readings without a series")
    words = {series}
    marks: list[Mark] = []
    points = 0
    for reader, session in enumerate(e for e in root if _name(e) == "readingSession"):
        for nodule in (e for e in session if _name(e) == "unblindedReadNodule"):
            outlines: list[Outline] = []
            for roi in (e for e in nodule if _name(e) == "roi"):
                if _text(roi, "inclusion").upper() == "FALSE":
                    continue
                edge = [(_number(e, "xCoord"), _number(e, "yCoord")) for e in roi if _name(e) == "edgeMap"]
                points += len(edge)
                if points > POINTS:
                    raise NotUsable("LIDC readings with too many points")
                if edge:
                    uid = _text(roi, "imageSOP_UID")
                    words.add(uid)
                    x, y, area = centroid(edge)
                    outlines.append(Outline(pseudonymiser.id("sop", uid), _number(roi, "imageZposition"), x, y, area))
            rating = next((_text(e, "malignancy") for e in nodule if _name(e) == "characteristics"), "")
            if outlines and rating in ("1", "2", "3", "4", "5"):  # below 3 mm there is one point and no rating
                marks.append(Mark(reader, int(rating), tuple(outlines)))
    return pseudonymiser.id("series", series), marks, words


def centroid(edge: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Centroid (x, y) and area of a closed polygon; of points on a line their mean and 0."""
    x0, y0 = edge[0]  # relative to the first point: large coordinates would cancel
    area = cx = cy = 0.0
    for (xa, ya), (xb, yb) in zip(edge, edge[1:] + edge[:1], strict=True):
        cross = (xa - x0) * (yb - y0) - (xb - x0) * (ya - y0)
        area += cross / 2
        cx += (xa + xb - 2 * x0) * cross
        cy += (ya + yb - 2 * y0) * cross
    if abs(area) < 1e-9:
        return sum(x for x, _ in edge) / len(edge), sum(y for _, y in edge) / len(edge), 0.0
    return x0 + cx / (6 * area), y0 + cy / (6 * area), abs(area)


@dataclass(frozen=True)
class Nodule:
    """Marks of different readers that mean one nodule, at most one of each reader."""

    marks: tuple[Mark, ...]

    @property
    def readers(self) -> int:
        return len(self.marks)

    @property
    def malignancy(self) -> float:
        """Median rating."""
        return median(mark.malignancy for mark in self.marks)

    def label(self) -> int | None:
        """0: median 1 to 2; 1: median 4 to 5; None: in between, or under three readers."""
        if self.readers < READERS or 2 < self.malignancy < 4:
            return None
        return int(self.malignancy >= 4)


def match(marks: list[Mark], place: Callable[[Outline], tuple[float, float, float]], pixel_mm2: float) -> list[Nodule]:
    """Group the marks of all readers into nodules.

    Two marks of different readers fit when their centres lie nearer than the larger one's radius, or `MATCH_MM`. Pairs are taken from
    the nearest on, and groups grow together unless that would put two marks of one reader into one nodule.

    Args:
        place: Where an outline's centroid lies, in mm.
        pixel_mm2: Area of a pixel.

    Returns:
        Nodules in the order of their first mark.
    """
    centres = [_centre(mark, place) for mark in marks]
    radii = [math.sqrt(max(o.area for o in mark.outlines) * pixel_mm2 / math.pi) for mark in marks]
    reach = [max(radius, MATCH_MM) for radius in radii]
    pairs = sorted(
        (distance, i, j)
        for i in range(len(marks))
        for j in range(i)
        if marks[i].reader != marks[j].reader and (distance := math.dist(centres[i], centres[j])) <= max(reach[i], reach[j])
    )
    group = list(range(len(marks)))
    for _, i, j in pairs:
        if group[i] == group[j]:
            continue
        together = [k for k in range(len(marks)) if group[k] in (group[i], group[j])]
        if len({marks[k].reader for k in together}) == len(together):
            first = min(group[i], group[j])
            for k in together:
                group[k] = first
    members: dict[int, list[Mark]] = defaultdict(list)
    for k, number in enumerate(group):
        members[number].append(marks[k])
    return [Nodule(tuple(members[number])) for number in sorted(members)]


def _centre(mark: Mark, place: Callable[[Outline], tuple[float, float, float]]) -> tuple[float, float, float]:
    """Centroid over the slices, weighted by area."""
    weights = [max(o.area, 1e-6) for o in mark.outlines]
    total = sum(weights)
    places = [place(o) for o in mark.outlines]
    return tuple(sum(w * p[a] for w, p in zip(weights, places, strict=True)) / total for a in range(3))  # type: ignore[return-value]


def _name(element: Any) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def _text(element: Any, name: str) -> str:
    return next((e.text or "" for e in element if _name(e) == name), "").strip()


def _number(element: Any, name: str) -> float:
    try:
        value = float(_text(element, name))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise NotUsable(f"LIDC readings with a {name} that is no number")
    return value


def _offset(data: bytes, position: tuple[int, int]) -> int:
    """Byte of (line, column)."""
    here = 0
    for _ in range(position[0] - 1):
        here = data.find(b"\n", here) + 1
    return here + position[1]
