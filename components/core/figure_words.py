"""Figures of images, recordings and acquisitions in plain words, with their unit and rounded as people at the machine read them.

A word for an image is wrong for an accelerometer, and what turns a colour is a stain on a slide and a lamp before an eye: everything here goes by
the spec's modality. Names of features are those of `image_quality.py`, `acquisition.py` and a table's own columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from components.core import acquisition, image_quality
from components.core.acquisition import PARAMETERS
from components.core.spec import Input

IMAGE: Mapping[str, str] = MappingProxyType(
    {
        "mean": "mean intensity", "sd": "contrast", "p01": "darkest 1 %", "p50": "median intensity", "p99": "brightest 1 %", "noise_sd": "noise",
        "sharpness": "sharpness", "skewness": "skewness of intensities", "clipped_low": "share of black", "clipped_high": "share of saturated values",
        "fineness": "share of fine detail", "blockiness": "compression blocks", "red_green": "red against green", "blue_green": "blue against green",
    }
)  # fmt: skip
SIGNAL: Mapping[str, str] = MappingProxyType(
    {
        "mean": "mean of the signal", "sd": "variation of the signal", "p01": "lowest 1 % of the signal", "p50": "median of the signal",
        "p99": "highest 1 % of the signal", "noise_sd": "noise", "sharpness": "share of fast changes", "skewness": "skewness of the signal",
        "clipped_low": "share of values at the lower limit", "clipped_high": "share of values at the upper limit",
        "fineness": "share of the fastest changes",
    }
)  # fmt: skip
LEVELS = ("mean", "sd", "p01", "p50", "p99", "noise_sd")
"""Figures in the unit of the samples."""
SHARES = ("clipped_low", "clipped_high")
RATIOS = ("sd", "noise_sd", "sharpness")
"""Figures with a zero that means nothing is there: their changes are told in per cent."""
ENCODINGS: Mapping[str, str] = MappingProxyType(
    {
        "1.2.840.10008.1.2": "not compressed", "1.2.840.10008.1.2.1": "not compressed", "1.2.840.10008.1.2.2": "not compressed, big endian",
        "1.2.840.10008.1.2.1.99": "deflated", "1.2.840.10008.1.2.5": "RLE", "1.2.840.10008.1.2.4.50": "JPEG", "1.2.840.10008.1.2.4.51": "JPEG",
        "1.2.840.10008.1.2.4.57": "lossless JPEG", "1.2.840.10008.1.2.4.70": "lossless JPEG", "1.2.840.10008.1.2.4.80": "lossless JPEG-LS",
        "1.2.840.10008.1.2.4.81": "JPEG-LS", "1.2.840.10008.1.2.4.90": "lossless JPEG 2000", "1.2.840.10008.1.2.4.91": "JPEG 2000",
    }
)  # fmt: skip
SLIDE, PHOTOGRAPH, SENSOR, SCAN = "slide", "photograph", "sensor", "scan"
KINDS: Mapping[str, str] = MappingProxyType(
    {"histology": SLIDE, "fundus": PHOTOGRAPH, "dermoscopy": PHOTOGRAPH, "sensor": SENSOR} | dict.fromkeys(("CT", "MR", "MG", "DX"), SCAN)
)
"""Modality -> what made the samples; another one is told in words that fit any image."""
CAUSES: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "gain": {"": ("a higher gain", "a lower gain")},
        "offset": {"": ("a brighter offset", "a darker offset"), SENSOR: ("an offset upwards", "an offset downwards")},
        "noise": {"": ("more noise", "less noise")},
        "blur": {
            "": ("less sharp images", "less blur"), SCAN: ("a softer reconstruction or filter", "less blur"),
            SLIDE: ("a slide out of focus", "less blur"), PHOTOGRAPH: ("a lens out of focus", "less blur"),
            SENSOR: ("a filter that takes fast changes away", "less filtering"),
        },
        "sharpening": {
            "": ("a sharpening filter", "less sharpening"), SCAN: ("a sharper kernel or filter", "less sharpening"),
            SENSOR: ("a filter that raises fast changes", "less filtering"),
        },
        "gamma": {"": ("another tone curve (darker)", "another tone curve (brighter)")},
        "saturation": {"": ("a detector that is full earlier", "less saturation"), SENSOR: ("a sensor whose range ends earlier", "a wider range")},
        "compression": {"": ("lossy compression", "less compression")},
        "stain": {
            "": ("light or a camera of another colour", "light or a camera of another colour"),
            SLIDE: ("another stain or lamp", "another stain or lamp"),
        },
    }
)  # fmt: skip
"""Change of `acquisition_changes.py` -> kind of machine, "" for any other -> words for a positive and a negative strength."""


@dataclass(frozen=True)
class Words:
    """The words for one spec's samples.

    Args:
        modality, layout, unit: As in `spec.Input`.
    """

    modality: str
    layout: str
    unit: str

    @classmethod
    def of(cls, source: Input) -> Words:
        return cls(source.modality, source.layout, source.unit)

    def name(self, feature: str) -> str:
        """A figure, a parameter, or a column of a table, without its unit."""
        if feature in PARAMETERS:
            return PARAMETERS[feature].words
        if feature == "software":
            return "software version"
        if self.layout == "table":
            return feature.replace("_", " ")
        return (SIGNAL if self.layout == "window" else IMAGE).get(feature, feature.removeprefix(acquisition.PREFIX).replace("_", " "))

    def unit_of(self, feature: str) -> str:
        """ "" where there is none."""
        if feature in PARAMETERS:
            return PARAMETERS[feature].unit
        if self.layout == "table" or feature not in image_quality.ALL:
            return ""
        return self.unit if feature in LEVELS and self.unit != "1" else "%" if feature in SHARES else ""

    def value(self, feature: str, value: float | str, *, unit: bool = True) -> str:
        """A value as it is read aloud: `80 kV`, `-1070 HU`, `0.7 mm`, `3 %`.

        Args:
            unit: Whether it stands behind.
        """
        if isinstance(value, str):
            return ENCODINGS.get(value, value) if feature == "acq_transfer_syntax" else value
        share = self.layout != "table" and feature in SHARES
        text = number(100 * value if share else value)
        told = self.unit_of(feature) if unit else ""
        return f"{text} {told}" if told else text

    def cause(self, change: str, strength: float) -> str:
        """What a change of `acquisition_changes.py` looks like on such a machine."""
        known = CAUSES[change]
        return known.get(KINDS.get(self.modality, ""), known[""])[strength < 0]


def number(value: float) -> str:
    """Three significant digits, never an exponent for what people count: -1070, 576, 0.703, 12.5, 120."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e9 or size < 1e-4:
        return f"{value:.3g}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
