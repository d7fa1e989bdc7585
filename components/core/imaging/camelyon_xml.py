"""Annotations in the XML of ASAP, as CAMELYON16 and 17 have them: polygons in level-0 pixels, each in a group.

    <ASAP_Annotations><Annotations>
      <Annotation Name="Annotation 0" Type="Polygon" PartOfGroup="Tumor"><Coordinates><Coordinate Order="0" X="1" Y="2"/>...
    </Annotations><AnnotationGroups><Group Name="Tumor" .../></AnnotationGroups></ASAP_Annotations>

Groups `_0`, `_1` (CAMELYON16 training), `Tumor` and `metastases` are tumour; `_2`, `Exclusion` and `normal` are cut out of it.

Source:
    Bandi et al., IEEE TMI 2019 (CAMELYON17); the data sets' own README files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable

XML_BYTES = 256 << 20
TUMOUR = frozenset(("_0", "_1", "tumor", "tumour", "metastases", "metastasis"))
EXCLUDED = frozenset(("_2", "exclusion", "normal"))
AREAS = frozenset(("polygon", "spline", "rectangle"))
OTHERS = frozenset(("dot", "pointset", "measurement"))
FINE = 32  # cells of the raster along one tile
RASTER_CELLS = 1 << 24
LIMIT = 1e7  # no slide is wider


@dataclass(frozen=True)
class Polygon:
    """One closed outline.

    Args:
        points: (n, 2) level-0 pixels (x, y), n >= 3.
        excluded: Cut out of every tumour that it lies in.
    """

    points: NDArray[np.float64]
    excluded: bool = False


def parse(data: bytes) -> list[Polygon]:
    """The areas of one file, in its order; dots and measurements are left out.

    Raises:
        NotUsable: Not XML, not of ASAP, a group of unknown meaning, or an outline that is none.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    if len(data) > XML_BYTES:
        raise NotUsable("annotations over 256 MB")
    try:
        root = fromstring(data)
    except ParseError:
        raise NotUsable("annotations that do not parse") from None
    except (DefusedXmlException, ValueError, LookupError):
        raise NotUsable("annotations with entities or an unknown encoding") from None
    if root.tag != "ASAP_Annotations":
        raise NotUsable("XML other than ASAP annotations")
    found: list[Polygon] = []
    for one in root.iter("Annotation"):
        kind, group = one.get("Type", "").strip().lower(), one.get("PartOfGroup", "").strip().lower()
        if kind in OTHERS:
            continue
        if kind not in AREAS:
            raise NotUsable("an annotation that is no area")
        if group not in TUMOUR | EXCLUDED:
            raise NotUsable("an annotation group that is neither tumour nor exclusion")
        try:
            points = np.array([(float(c.get("X", "")), float(c.get("Y", ""))) for c in one.iter("Coordinate")], dtype=np.float64).reshape(-1, 2)
        except ValueError:
            raise NotUsable("an annotation with coordinates that are no numbers") from None
        if len(points) < 3 or not np.isfinite(points).all() or np.abs(points).max() > LIMIT:
            raise NotUsable("an annotation that encloses nothing")
        found.append(Polygon(points, group in EXCLUDED))
    return found


def render(polygons: list[Polygon], *, comment: str = "") -> str:
    """The same in text; `comment` goes to the top."""
    lines = ['<?xml version="1.0"?>', f"<!-- {comment} -->" if comment else "", "<ASAP_Annotations>", "\t<Annotations>"]
    for n, polygon in enumerate(polygons):
        group, colour = ("Exclusion", "#64FE2E") if polygon.excluded else ("Tumor", "#F4FA58")
        lines.append(f'\t\t<Annotation Name={quoteattr(f"Annotation {n}")} Type="Polygon" PartOfGroup="{group}" Color="{colour}">')
        lines.append("\t\t\t<Coordinates>")
        lines += [f'\t\t\t\t<Coordinate Order="{k}" X="{x:.2f}" Y="{y:.2f}" />' for k, (x, y) in enumerate(polygon.points)]
        lines += ["\t\t\t</Coordinates>", "\t\t</Annotation>"]
    lines += ["\t</Annotations>", "\t<AnnotationGroups>"]
    lines += [f'\t\t<Group Name="{name}" PartOfGroup="None" Color="#00ff00"><Attributes /></Group>' for name in ("Tumor", "Exclusion")]
    return "\n".join([*(line for line in lines if line), "\t</AnnotationGroups>", "</ASAP_Annotations>", ""])


def cover(polygons: list[Polygon], corners: NDArray[np.int64], side: float) -> tuple[NDArray[np.float64], NDArray[np.int64], set[int]]:
    """How much of each tile is tumour.

    Polygons are laid on a raster of `FINE` cells along a tile (coarser for an outline of more than `RASTER_CELLS`), one at a time.

    Args:
        corners: (n, 2) level-0 pixels (x, y), upper left.
        side: Of a tile, in level-0 pixels.

    Returns:
        The covered share (n,) of the tile's centre, which is the middle half of each side; the number (n,) of the tumour that covers most of
        the tile, -1 for none; all tumours that cover any tile.
    """
    centre, largest = np.zeros(len(corners)), np.zeros(len(corners))
    lesion = np.full(len(corners), -1, dtype=np.int64)
    touched: set[int] = set()
    excluded = [p for p in polygons if p.excluded]
    for number, polygon in enumerate(p for p in polygons if not p.excluded):
        low, high = polygon.points.min(0), polygon.points.max(0)
        near = np.flatnonzero(((corners < high) & (corners + side > low)).all(1))
        if not len(near):
            continue
        cell = max(side / FINE, math.sqrt(float(np.prod(np.maximum(high - low, 1))) / RASTER_CELLS))
        sums = _integral(_raster(polygon, excluded, low, high, cell))
        inner = _share(sums, (corners[near] + side / 4 - low) / cell, side / 2 / cell)
        whole = _share(sums, (corners[near] - low) / cell, side / cell)
        centre[near] += inner
        better = whole > largest[near]
        largest[near[better]], lesion[near[better]] = whole[better], number
        if (whole > 0).any():
            touched.add(number)
    return np.minimum(centre, 1), lesion, touched


def _raster(polygon: Polygon, excluded: list[Polygon], low: NDArray[np.float64], high: NDArray[np.float64], cell: float) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    width, height = (int(v) + 2 for v in np.ceil((high - low) / cell))
    image = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(image)

    def fill(points: NDArray[np.float64], value: int) -> None:
        draw.polygon([(float(x), float(y)) for x, y in (points - low) / cell - 0.5], fill=value)  # PIL's pixel centres are whole numbers

    fill(polygon.points, 1)
    for other in excluded:
        if ((other.points.min(0) < high) & (other.points.max(0) > low)).all():
            fill(other.points, 0)
    return np.asarray(image)


def _integral(raster: NDArray[np.uint8]) -> NDArray[np.int32]:
    sums = np.zeros((raster.shape[0] + 1, raster.shape[1] + 1), dtype=np.int32)
    np.cumsum(np.cumsum(raster, axis=0, dtype=np.int32), axis=1, out=sums[1:, 1:])
    return sums


def _share(sums: NDArray[np.int32], corner: NDArray[np.float64], side: float) -> NDArray[np.float64]:
    """Mean of the raster over squares, (n, 2) corners (x, y) and one side in cells; edges are rounded to whole cells."""
    width = max(1, round(side))
    start = np.rint(corner).astype(np.int64)
    limit = np.array([sums.shape[1] - 1, sums.shape[0] - 1])
    x0, y0 = np.clip(start, 0, limit).T
    x1, y1 = np.clip(start + width, 0, limit).T
    return (sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]) / width**2
