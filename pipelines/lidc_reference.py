"""What the readers of an LIDC-style series agreed on: the reference that detection and outlines are judged by.

Source:
    Setio et al., Medical Image Analysis 2017 (LUNA16): nodules of 3 mm or more that at least 3 of 4 readers accepted; everything else that
    any reader marked counts neither way. Outlines name the first pixels outside a nodule (Armato et al., Medical Physics 2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.chain.ct_volume import CtVolume, Triple
from components.core.errors import DataError
from components.core.imaging.errors import NotUsable
from components.core.pseudonym import Pseudonymiser
from components.ingest import lidc

OPEN_RADIUS_MM = 5.0  # about a mark that has no outline


@dataclass(frozen=True)
class Nodule:
    """`label` is the malignancy (0, 1, or None as in ingest); `mask` what at least half of its readers outlined, on the whole series."""

    centre_mm: Triple
    radius_mm: float
    label: int | None
    corner: tuple[int, int, int]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    nodules: list[Nodule]
    open_mm: list[Triple]
    open_radii_mm: list[float]


def reference(folder: Path, volume: CtVolume, pseudonymiser: Pseudonymiser) -> Reference:
    """Read the marks of `volume`'s series from the XML file beside its slices.

    Raises:
        DataError: There is not exactly one file of marks for it.
    """
    found = []
    for path in sorted(folder.rglob("*.xml")):
        data = path.read_bytes()
        try:
            series, marks, _ = lidc.parse(data, pseudonymiser)
        except NotUsable as reason:
            raise DataError(reason.reason, where=str(path)) from None
        if series == volume.series:
            found.append((data, marks))
    if len(found) != 1:
        raise DataError("marks of the series", where=str(folder), got=f"{len(found)} files", allowed="one")
    data, marks = found[0]
    place = {sop: k for k, sop in enumerate(volume.sops)}
    step = volume.step_mm
    marks = [mark for mark in marks if all(o.sop in place for o in mark.outlines)]
    edges, points = _edges(data, pseudonymiser)
    nodules: list[Nodule] = []
    open_mm: list[Triple] = []
    radii: list[float] = []
    for group in lidc.match(marks, lambda o: (o.x * step[2], o.y * step[1], place[o.sop] * step[0]), step[1] * step[2]):
        made = _nodule(group, volume, place, edges)
        if made is not None and group.readers >= lidc.READERS:
            nodules.append(made)
        elif made is not None:
            open_mm.append(made.centre_mm)
            radii.append(max(made.radius_mm, OPEN_RADIUS_MM))
    for sop, x, y in points:
        if sop in place:
            open_mm.append(volume.place_mm((place[sop], y, x)))
            radii.append(OPEN_RADIUS_MM)
    return Reference(nodules, open_mm, radii)


def _nodule(group: lidc.Nodule, volume: CtVolume, place: dict[str, int], edges: dict[tuple[int, str, float, float], Any]) -> Nodule | None:
    """The consensus of a group of marks; None where it has no voxel."""
    from PIL import Image, ImageDraw

    outlines = [(mark.reader, o) for mark in group.marks for o in mark.outlines]
    points = [edges[reader, o.sop, o.x, o.y] for reader, o in outlines]
    ks = [place[o.sop] for _, o in outlines]
    low = np.floor(np.min([np.min(p, axis=0) for p in points], axis=0)).astype(int)  # column, row
    high = np.ceil(np.max([np.max(p, axis=0) for p in points], axis=0)).astype(int)
    width, height = (int(v) for v in high - low + 1)
    votes = np.zeros((max(ks) - min(ks) + 1, height, width), dtype=np.int16)
    for edge, k in zip(points, ks, strict=True):
        plane = Image.new("1", (width, height))
        corners = [(float(x - low[0]), float(y - low[1])) for x, y in edge]
        draw = ImageDraw.Draw(plane)
        if len(corners) > 2:
            draw.polygon(corners, fill=1)
        inside = np.array(plane)
        plane = Image.new("1", (width, height))
        ImageDraw.Draw(plane).line([*corners, corners[0]], fill=1)
        votes[k - min(ks)] += inside & ~np.array(plane)  # the edge itself is the first pixel outside
    mask = votes * 2 >= group.readers
    if not mask.any():
        return None
    corner = (min(ks), int(low[1]), int(low[0]))
    middle = np.argwhere(mask).mean(axis=0) + corner
    radius = float((3 * mask.sum() * np.prod(volume.step_mm) / (4 * np.pi)) ** (1 / 3))
    return Nodule(volume.place_mm(middle), radius, group.label(), corner, mask)


def _edges(data: bytes, pseudonymiser: Pseudonymiser) -> tuple[dict[tuple[int, str, float, float], Any], list[tuple[str, float, float]]]:
    """Outlines by reader, image and centroid, as `lidc.parse` gives them; single points: non-nodules and nodules under 3 mm."""
    from defusedxml.ElementTree import fromstring

    edges: dict[tuple[int, str, float, float], Any] = {}
    points: list[tuple[str, float, float]] = []
    for reader, session in enumerate(e for e in fromstring(data) if _name(e) == "readingSession"):
        for mark in session:
            rois = [mark] if _name(mark) == "nonNodule" else [e for e in mark if _name(e) == "roi"]
            for roi in rois:
                sop = pseudonymiser.id("sop", _text(roi, "imageSOP_UID"))
                edge = [(float(_text(e, "xCoord")), float(_text(e, "yCoord"))) for e in roi if _name(e) in ("edgeMap", "locus")]
                if edge:
                    x, y, _ = lidc.centroid(edge)
                    edges[reader, sop, x, y] = edge
                if len(edge) == 1:
                    points.append((sop, *edge[0]))
    return edges, points


def _name(element: Any) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def _text(element: Any, name: str) -> str:
    return next((e.text or "" for e in element if _name(e) == name), "").strip()
