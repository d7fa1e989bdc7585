"""Which way the axes of a volume point, and how to turn them to RAS without touching a value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.nifti import Volume


def codes(affine: NDArray[np.float64]) -> str:
    """Where the axes point, e.g. "LAS": the first to the patient's left, the second to the front, the third to the head."""
    from nibabel.orientations import aff2axcodes

    return "".join(str(code) for code in aff2axcodes(affine))


def canonical(volume: Volume) -> Volume:
    """The same volume with its axes permuted and flipped so that they run, as nearly as they can, to the right, the front and the head.

    An oblique volume stays oblique: only `resample.to_grid` turns it, since that takes interpolation.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    turned = io_orientation(volume.affine)
    data = np.asarray(apply_orientation(volume.data, turned), dtype=np.float32)
    return Volume(data, volume.affine @ inv_ornt_aff(turned, volume.data.shape), volume.bits, volume.description)
