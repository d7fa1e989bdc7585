"""Simulated slide scanners: how each laboratory stains the same node and what each scanner makes of it.

Light is absorbed by Beer and Lambert's law, so a stain is a vector of optical densities in red, green and blue (Ruifrok and Johnston,
Analytical and Quantitative Cytology and Histology 2001), and what differs between laboratories is those vectors. A scanner then blurs,
balances white, bends the response by a gamma and compresses by JPEG.

No maker, model or site here exists. The unseen one is stained purple and red by another protocol, blurred, and bright: a model that has
learned the known colours by heart fails on it.
"""

from __future__ import annotations

from dataclasses import dataclass

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Scanner:
    """One scanner with the laboratory that stains for it.

    Args:
        serial: In the header, where the format has a place for it.
        aperio: Written as Aperio's SVS; otherwise as a generic pyramidal TIFF.
        mpp: Microns of a level-0 pixel.
        haematoxylin, eosin: Optical density of a unit of stain in red, green, blue.
        white: Transmission of empty glass in red, green, blue, in (0, 1].
        blur_um: Standard deviation of the point spread function, in microns.
        gamma: Exponent on the transmission; above 1 is darker.
        noise: Standard deviation on [0, 1].
        quality: Of JPEG.
    """

    key: str
    manufacturer: str
    model: str
    serial: str
    aperio: bool
    mpp: float
    haematoxylin: Triple
    eosin: Triple
    white: Triple
    blur_um: float
    gamma: float
    noise: float
    quality: int


SCANNERS = (
    Scanner(
        "corvex", "SYNTHETIC Corvex", "SYNTHETIC Slide 40", "SYN-CV-1031", True, 0.5,
        (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.96, 0.96, 0.96), 0.6, 1.0, 0.010, 85,
    ),
    Scanner(
        "halden", "SYNTHETIC Halden", "SYNTHETIC Pan 250", "SYN-HD-0077", False, 0.97,
        (0.55, 0.76, 0.35), (0.12, 0.94, 0.30), (0.97, 0.95, 0.98), 0.9, 0.92, 0.012, 75,
    ),
    Scanner(
        "mirabel", "SYNTHETIC Mirabel", "SYNTHETIC Zoomer XS", "SYN-MB-5150", False, 0.85,
        (0.70, 0.64, 0.32), (0.09, 0.90, 0.40), (0.95, 0.96, 0.91), 0.8, 1.12, 0.008, 90,
    ),
    Scanner(
        "orsted", "SYNTHETIC Orsted", "SYNTHETIC Portable 2", "SYN-OR-0003", False, 0.7,
        (0.42, 0.82, 0.52), (0.30, 0.80, 0.60), (0.99, 0.90, 0.97), 1.5, 0.70, 0.020, 60,
    ),
)  # fmt: skip
KNOWN = ("corvex", "halden", "mirabel")
UNSEEN = ("orsted",)
NAMES = frozenset((s.manufacturer, s.model) for s in SCANNERS)


def scanner(key: str) -> Scanner:
    return next(s for s in SCANNERS if s.key == key)
