"""A section of a lymph node: lymphocytes, germinal centres, sinuses, and, in some, a metastasis.

What tells a metastasis is what a pathologist looks at: its nuclei are large, of unequal size and shape (pleomorphism), with unequal
chromatin, crowded and overlapping. Germinal centres and sinuses hold large pale nuclei as well, but round or regular ones, so neither the
colour of a field nor the size of its nuclei is enough. All lengths are in microns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE_UM = 768.0
MAP_UM = 4.0  # cells of the map of compartments
GLASS, LYMPHOCYTES, CENTRE, SINUS, TUMOUR = range(5)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """The nuclei of one compartment.

    Args:
        radius, spread: Median in microns, and standard deviation of its logarithm.
        stretch: Largest ratio of the long to the short axis.
        ragged: Amplitude of the outline's waves, as a share of the radius.
        chromatin, unequal: Mean and standard deviation of the haematoxylin in a nucleus.
        eosin: Of the cytoplasm around.
        spacing, filled: Microns between places for a nucleus, and the share of places that hold one.
    """

    radius: float
    spread: float
    stretch: float
    ragged: float
    chromatin: float
    unequal: float
    eosin: float
    spacing: float
    filled: float


KINDS = {
    LYMPHOCYTES: Cells(2.9, 0.10, 1.20, 0.04, 0.80, 0.10, 0.30, 6.4, 0.78),
    CENTRE: Cells(4.0, 0.16, 1.30, 0.07, 0.62, 0.13, 0.38, 8.4, 0.82),
    SINUS: Cells(3.6, 0.20, 1.90, 0.06, 0.58, 0.14, 0.44, 8.8, 0.62),
    TUMOUR: Cells(4.2, 0.26, 1.55, 0.14, 0.63, 0.19, 0.40, 8.4, 0.86),
}


@dataclass(frozen=True)
class Section:
    """What lies on the glass, before stain and scanner.

    Args:
        kinds: (n, n) compartments on a grid of `MAP_UM`.
        outlines: Tumours as (k, 2) closed outlines (x, y); `holes` are cut out of them.
        nuclei: (m, 2) centres, (m, 12, 2) corners, and (m,) haematoxylin.
    """

    kinds: NDArray[np.int64]
    outlines: list[Floats]
    holes: list[Floats]
    corners: Floats
    chromatin: Floats
    eosin: Floats

    @property
    def tumour_um2(self) -> float:
        return float((self.kinds == TUMOUR).sum() * MAP_UM**2)


def section(draw: np.random.Generator, *, tumour: bool) -> Section:
    """One section of `SIDE_UM` microns; depends on `draw` alone."""
    n = int(SIDE_UM / MAP_UM)
    kinds = np.full((n, n), GLASS, dtype=np.int64)
    node = blob(draw, (SIDE_UM / 2 + draw.uniform(-25, 25), SIDE_UM / 2 + draw.uniform(-25, 25)), draw.uniform(300, 345), rough=0.08)
    inside = filled(node, n)
    kinds[inside] = LYMPHOCYTES
    waves = smooth(draw, n, 14)
    kinds[inside & (np.abs(waves) < draw.uniform(0.08, 0.22))] = SINUS
    for _ in range(int(draw.integers(2, 6))):
        centre = spot(draw, node, 0.7)
        kinds[filled(blob(draw, centre, draw.uniform(35, 85), rough=0.06), n) & inside] = CENTRE
    outlines: list[Floats] = []
    holes: list[Floats] = []
    if tumour:
        count = 1 if draw.random() < 0.6 else 2
        for number in range(count):
            radius = draw.uniform(90, 170) if number == 0 and draw.random() < 0.65 else draw.uniform(38, 70)
            for _ in range(30):
                centre = spot(draw, node, 0.85)
                if np.hypot(*(np.array(centre) - SIDE_UM / 2)) + radius < 345 and all(
                    np.hypot(*(o.mean(0) - centre)) > radius + np.ptp(o, 0).max() / 2 + 30 for o in outlines
                ):
                    break
            else:
                continue
            outline = blob(draw, centre, radius, rough=0.16)
            kinds[filled(outline, n) & inside] = TUMOUR
            outlines.append(outline)
            if radius > 100 and draw.random() < 0.5:
                hole = blob(draw, centre, radius * 0.35, rough=0.1)
                kinds[filled(hole, n)] = LYMPHOCYTES
                holes.append(hole)
    corners, chromatin = _nuclei(draw, kinds)
    eosin = np.zeros((n, n))
    tint = 1 + 0.18 * smooth(draw, n, 8)
    for kind, cells in KINDS.items():
        eosin[kinds == kind] = cells.eosin
    return Section(kinds, outlines, holes, corners, chromatin, eosin * np.clip(tint, 0.4, 1.8))


def blob(draw: np.random.Generator, centre: tuple[float, float], radius: float, *, rough: float, corners: int = 48) -> Floats:
    """(corners, 2) outline (x, y) of a circle with random waves."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    r = np.ones(corners)
    for k in range(2, 6):
        r += rough / k * 2 * draw.normal() * np.cos(k * angle + draw.uniform(0, 2 * np.pi))
    r = radius * np.clip(r, 0.4, 1.6)
    return np.stack([centre[0] + r * np.cos(angle), centre[1] + r * np.sin(angle)], axis=1)


def spot(draw: np.random.Generator, node: Floats, reach: float) -> tuple[float, float]:
    """A random place within `reach` of the way from the node's middle to its edge."""
    middle, edge = node.mean(0), node[int(draw.integers(len(node)))]
    x, y = middle + (edge - middle) * reach * np.sqrt(draw.random())
    return float(x), float(y)


def filled(outline: Floats, n: int) -> NDArray[np.bool_]:
    """(n, n) cells of the map inside an outline."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (n, n), 0)
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in outline / MAP_UM - 0.5], fill=1)
    return np.asarray(image) > 0


def smooth(draw: np.random.Generator, n: int, coarse: int) -> Floats:
    """(n, n) noise with zero mean and unit standard deviation that changes over 1 / coarse of the side."""
    from scipy.ndimage import zoom

    field = np.asarray(zoom(draw.normal(size=(coarse, coarse)), n / coarse, order=3))[:n, :n]
    return (field - field.mean()) / field.std()


def _nuclei(draw: np.random.Generator, kinds: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Corners (m, 12, 2) and haematoxylin (m,) of all nuclei."""
    outlines, stains = [], []
    size = float(np.clip(draw.normal(1, 0.05), 0.88, 1.12))  # the section's own scale: shrinkage in fixation
    grade = float(draw.uniform(0.85, 1.25))  # how abnormal this tumour is
    for kind, cells in KINDS.items():
        steps = np.arange(0, SIDE_UM, cells.spacing)
        at = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        at = at + draw.uniform(-0.42, 0.42, at.shape) * cells.spacing
        keep = draw.random(len(at))
        low, high = 0, kinds.shape[0] - 1
        here = kinds[tuple(np.clip((at / MAP_UM).astype(int), low, high).T[::-1])] == kind
        crowd = np.clip(cells.filled * draw.uniform(0.8, 1.15), 0, 1)
        at = at[here & (keep < crowd)]
        if not len(at):
            continue
        abnormal = grade if kind == TUMOUR else 1.0
        radius = cells.radius * size * np.exp(draw.normal(0, cells.spread * abnormal, len(at)))
        if kind == TUMOUR:  # lymphocytes wander into it
            wandered = draw.random(len(at)) < 0.2
            radius = np.where(wandered, KINDS[LYMPHOCYTES].radius * size, radius * (0.85 + 0.15 * grade))
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        turn = draw.uniform(0, 2 * np.pi, (len(at), 1))
        stretch = np.sqrt(draw.uniform(1, cells.stretch, (len(at), 1)))
        wave = 1 + cells.ragged * abnormal * (
            draw.normal(size=(len(at), 1)) * np.cos(2 * angle + turn) + draw.normal(size=(len(at), 1)) * np.cos(3 * angle - turn)
        )
        r = radius[:, None] * np.clip(wave, 0.5, 1.7)
        u, v = r * np.cos(angle) * stretch, r * np.sin(angle) / stretch
        outlines.append(np.stack([at[:, :1] + u * np.cos(turn) - v * np.sin(turn), at[:, 1:] + u * np.sin(turn) + v * np.cos(turn)], axis=-1))
        stains.append(np.clip(draw.normal(cells.chromatin, cells.unequal * abnormal, len(at)), 0.2, 1.4))
    if not outlines:
        return np.zeros((0, 12, 2)), np.zeros(0)
    corners, stain = np.concatenate(outlines), np.concatenate(stains)
    order = draw.permutation(len(corners))
    return corners[order], stain[order]


def stained(made: Section, mpp: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Haematoxylin and eosin, each (H, W), on a grid of `mpp` microns."""
    from PIL import Image, ImageDraw

    side = int(SIDE_UM / mpp)
    image = Image.new("L", (side, side), 0)
    paint: Any = ImageDraw.Draw(image).polygon
    scaled = (made.corners / mpp - 0.5).reshape(len(made.corners), -1).tolist()
    for points, level in zip(scaled, (made.chromatin * 160).astype(int).tolist(), strict=True):
        paint(points, fill=level)
    nuclei = np.asarray(image, dtype=np.float32) / 160
    eosin = np.asarray(Image.fromarray(made.eosin.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))
    tissue = np.asarray(Image.fromarray((made.kinds > GLASS).astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))
    nuclei = np.maximum(nuclei, 0.06 * tissue)
    return nuclei, eosin * np.where(nuclei > 0.15, 0.5, 1.0).astype(np.float32)
