"""What a modality can have, from both sides; outside, units or tags were mixed up. Readers and checks of datasets share it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Range = tuple[float, float]

PLAUSIBLE: Mapping[str, Mapping[str, Range]] = MappingProxyType(
    {
        "CT": {"acq_pixel_mm": (0.1, 2.0), "acq_slice_thickness_mm": (0.2, 12.0), "acq_kvp": (60, 150)},
        "MR": {"acq_pixel_mm": (0.1, 5.0), "acq_slice_thickness_mm": (0.2, 20.0)},
        "MG": {"acq_pixel_mm": (0.02, 0.25), "acq_kvp": (20, 50)},
        "DX": {"acq_pixel_mm": (0.05, 0.6), "acq_kvp": (35, 160)},
    }
)
"""Pixel spacing, slice thickness (mm) and tube voltage (kV)."""
ANY_PIXEL_MM: Range = (0.0005, 100.0)
"""Of modalities without one of their own: from a microscope's to a planar scintigram's; what is resampled grows with the inverse."""
SLOPE_HU: Range = (0.01, 16.0)
"""HU of one step of a stored CT value: 16 bits of the least are 655 HU, less than from air to soft tissue; 8 bits of the most are 4096."""


def pixel_mm(modality: str) -> Range:
    """Believable pixel spacings, mm."""
    return PLAUSIBLE.get(modality, {}).get("acq_pixel_mm", ANY_PIXEL_MM)
