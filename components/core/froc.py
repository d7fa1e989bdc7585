"""Lesions found in heat-maps: marks from tiles, matched with lesions, and CAMELYON16's figure over slides.

CAMELYON16: a mark inside a lesion finds it, of several the highest counts; a mark outside all lesions is a false positive; lesions that the
protocol leaves out (isolated tumour cells) count neither way. The figure is the mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives
a slide, over all slides, normal ones included.

Here a lesion is known at the resolution of tiles: a mark finds it when its tile touches the lesion's outline. Sensitivity is read off the
stairs, at the lowest threshold with at most so many false positives; the challenge's script interpolates between the stairs.

Source:
    Ehteshami Bejnordi et al., JAMA 2017, doi:10.1001/jama.2017.14585.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.errors import DataError
from components.core.froc_scans import Scan
from components.core.froc_scans import froc as over_scans
from components.core.metrics import Estimate

RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
NEAR_UM = 75.0  # the challenge joins annotations that are nearer
LOWEST = 0.05  # a mark below says nothing and would only add false positives beyond the last rate
Floats = NDArray[np.float64]


def marks(places: ArrayLike, p: ArrayLike, *, near: float, lowest: float = LOWEST) -> NDArray[np.int64]:
    """Tiles that stand for one finding each: the highest first, and none within `near` of a higher one.

    Args:
        places: (n, 2) centres; p: (n,). Of equal ones the earlier counts as higher.
        near: In the unit of `places`.

    Returns:
        Row numbers, highest first.
    """
    at, values = np.asarray(places, dtype=np.float64).reshape(-1, 2), np.asarray(p, dtype=np.float64)
    if len(at) != len(values):
        raise DataError("places and probabilities differ in number", where="froc", got=f"{len(at)}, {len(values)}")
    free = values >= lowest
    found: list[int] = []
    for row in np.argsort(-values, kind="stable"):
        if free[row]:
            found.append(int(row))
            free &= np.hypot(*(at - at[row]).T) > near
    return np.array(found, dtype=np.int64)


def slide(places: ArrayLike, p: ArrayLike, lesions: Sequence[str | None], *, near: float, ignored: Collection[str] = ()) -> Scan:
    """One slide's marks after matching.

    Args:
        lesions: Of each tile the lesion that it touches, None for none. A lesion that no tile touches is unknown here.
        ignored: Lesions that count neither way.
    """
    chosen = marks(places, p, near=near)
    values = np.asarray(p, dtype=np.float64)
    named = [lesion if isinstance(lesion, str) and lesion else None for lesion in lesions]
    wanted = sorted({lesion for lesion in named if lesion is not None} - set(ignored))
    hits, best = np.full(len(wanted), -np.inf), np.full(len(wanted), -1, dtype=np.int64)
    alarms = []
    for row in chosen:
        lesion = named[row]
        if lesion is None:
            alarms.append(float(values[row]))
        elif lesion not in ignored and best[k := wanted.index(lesion)] < 0:
            best[k], hits[k] = row, values[row]
    return Scan(hits, np.array(alarms, dtype=np.float64), best)


def froc(slides: Sequence[Scan], rates: Sequence[float] = RATES) -> dict[str, Estimate]:
    """Sensitivity at each rate (keyed by it, as text) and `mean`, with 95 % intervals from a bootstrap over slides."""
    return over_scans(slides, rates)
