"""Step three: places in the lung that look like a ball. Many are vessels; `candidate_classifier.py` tells them apart afterwards.

At each scale the difference of two Gaussians answers to balls of one size. A local maximum of it is a candidate if the lung is denser there
in all three directions: a vessel is so in two, a fissure or the pleura in one.

Source:
    Lindeberg, International Journal of Computer Vision 1998 (scale selection); Li, Sone and Doi, Medical Physics 2003 (eigenvalues of the
    Hessian: balls against tubes and sheets).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.chain import morphology as m
from components.core.chain.morphology import Floats, Mask

SIGMAS_MM = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6)
"""A ball of radius r answers most at sigma = r / sqrt(3): radii of 1.7 to 10 mm."""
CONTRAST_HU = 35.0
ROUND = 0.12  # smallest over largest curvature
MOST = 250  # candidates of one series that are looked at more closely, strongest first
CLIP_HU = 100.0


@dataclass(frozen=True)
class Candidates:
    """Places on the working grid, the strongest answer first.

    Args:
        at: (n, 3) voxels.
        sigma_mm: (n,) scale; a ball's radius is about sqrt(3) times as large.
        answer_hu: (n,) difference of Gaussians.
        curvature: (n, 3) eigenvalues of the Hessian times sigma squared, HU, the most negative first.
        wall_mm: (n,) distance from the surface of the lung mask, at most 8.
    """

    at: NDArray[np.int64]
    sigma_mm: NDArray[np.float64]
    answer_hu: NDArray[np.float64]
    curvature: NDArray[np.float64]
    wall_mm: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.at)


def candidates(volume: Floats, lung: Mask, *, lung_hu: float) -> Candidates:
    """Find them.

    Args:
        volume: (z, y, x) HU on the 1 mm grid.
        lung: Of the same shape.
        lung_hu: What stands in place of everything outside the lung.
    """
    wide = m.box_of(lung, 6)
    inside = lung[wide]
    blurred = np.where(inside, np.minimum(volume[wide], np.float32(CLIP_HU)), np.float32(lung_hu))
    sigma = 0.0
    levels: list[tuple[float, Floats]] = []
    found: list[tuple[NDArray[np.int64], float, NDArray[np.float64], NDArray[np.float64]]] = []
    for wanted in (*SIGMAS_MM, SIGMAS_MM[-1] * 2**0.5):
        blurred = m.blurred(blurred, float(np.sqrt(wanted**2 - sigma**2)))
        sigma = wanted
        levels.append((sigma, blurred))
        if len(levels) == 2:
            found.append(_peaks(*levels[0], levels[1][1], inside))
            levels.pop(0)
    at = np.concatenate([f[0] for f in found])
    sigmas = np.concatenate([np.full(len(f[0]), f[1]) for f in found])
    answers, curvature = np.concatenate([f[2] for f in found]), np.concatenate([f[3] for f in found])
    order = np.argsort(-answers, kind="stable")
    order = order[_apart(at[order], sigmas[order])][:MOST]
    at = at[order]
    corner = np.array([s.start for s in wide])
    return Candidates(at + corner, sigmas[order], answers[order], curvature[order], _wall(inside, at))


def _peaks(sigma: float, here: Floats, wider: Floats, inside: Mask) -> tuple[NDArray[np.int64], float, NDArray[np.float64], NDArray[np.float64]]:
    """Local maxima of one scale: places, sigma, answers, curvature."""
    answer = here - wider
    at = np.argwhere((answer >= m.highest_near(answer)) & (answer > CONTRAST_HU) & inside)
    curvature = np.asarray(np.linalg.eigvalsh(_hessian(here, at, max(1, round(sigma / 2)))) * sigma**2, dtype=np.float64)
    ball = (curvature[:, 2] < 0) & (curvature[:, 2] <= ROUND * curvature[:, 0])
    at = at[ball]
    return at, sigma, answer[tuple(at.T)].astype(np.float64), curvature[ball]


def _hessian(values: Floats, at: NDArray[np.int64], step: int) -> NDArray[np.float64]:
    """(n, 3, 3) second differences over `step` voxels; the edge is repeated."""
    shape = np.array(values.shape) - 1

    def take(*offset: int) -> NDArray[np.float64]:
        return values[tuple(np.clip(at + np.array(offset) * step, 0, shape).T)].astype(np.float64)

    out = np.empty((len(at), 3, 3))
    unit = np.eye(3, dtype=int)
    for a in range(3):
        out[:, a, a] = take(*unit[a]) - 2 * take(0, 0, 0) + take(*-unit[a])
        for b in range(a):
            p, q = unit[a] + unit[b], unit[a] - unit[b]
            out[:, a, b] = out[:, b, a] = (take(*p) + take(*-p) - take(*q) - take(*-q)) / 4
    return out / step**2


def _apart(at: NDArray[np.int64], sigma: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of those that lie outside every stronger one's ball."""
    from scipy.spatial import KDTree

    if not len(at):
        return np.zeros(0, dtype=np.int64)
    tree = KDTree(at)
    free = np.ones(len(at), dtype=bool)
    for k in range(len(at)):
        if free[k]:
            near = np.array(tree.query_ball_point(at[k], 1.7 * sigma[k] + 1))
            free[near[near > k]] = False
    return np.flatnonzero(free)


def _wall(inside: Mask, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) mm to the nearest voxel outside the lung, looked for within 8 mm."""
    out = np.full(len(at), 8.0)
    for k, point in enumerate(at):
        box = tuple(slice(max(0, p - 8), p + 9) for p in point)
        part = inside[box]
        if not part.all():
            out[k] = min(8.0, float(m.distance(part)[tuple(p - s.start for p, s in zip(point, box, strict=True))]))
    return out
