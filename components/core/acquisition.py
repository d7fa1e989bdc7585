"""The closed vocabulary of acquisition parameters: every `acq_*` name there is, what it means, its unit and what it can be.

A name is a column of manifests, drift references and the inference log, and a word on pages: only the names below become either. Whoever tells
another one (a client, a spec, an old record) is refused or left out, and the name is never repeated, because it may be free text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

PREFIX = "acq_"
PICTURES = ("CT", "MR", "MG", "DX", "fundus", "dermoscopy", "histology", "image")


@dataclass(frozen=True)
class Parameter:
    """One acquisition parameter.

    Args:
        words: What it is, as people at the machine call it.
        modalities: Of specs (`spec.Input.modality`) whose readers write it.
        unit: Of its values; "" where it has none.
        possible: Lowest and highest value that a header may declare, 0 included where headers write it for "not known"; None: a word.
        least: Smallest relative change that matters to anybody: less is rounding, or another crop.
    """

    words: str
    modalities: tuple[str, ...]
    unit: str = ""
    possible: tuple[float, float] | None = None
    least: float = 0.0


PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {
        "acq_kvp": Parameter("tube voltage", ("CT", "MG", "DX", "image"), "kV", (0, 500), 0.02),
        "acq_exposure_mas": Parameter("exposure", ("CT", "MG", "DX", "image"), "mAs", (0, 100_000), 0.05),
        "acq_kernel": Parameter("kernel", ("CT", "image")),
        "acq_slice_thickness_mm": Parameter("slice thickness", ("CT", "MR", "MG", "image"), "mm", (0, 1000), 0.05),
        "acq_pixel_mm": Parameter("pixel size", PICTURES, "mm", (0, 100), 0.05),
        "acq_rows": Parameter("height", PICTURES, "pixels", (1, 10_000_000), 0.05),
        "acq_columns": Parameter("width", PICTURES, "pixels", (1, 10_000_000), 0.05),
        "acq_bits": Parameter("bits of a pixel", PICTURES, "", (1, 64)),
        "acq_photometric": Parameter("kind of colour", PICTURES),
        "acq_transfer_syntax": Parameter("encoding of the file", PICTURES),
        "acq_modality": Parameter("modality in the header", PICTURES),
        "acq_field_strength_t": Parameter("field strength", ("MR",), "T", (0, 30), 0.05),
        "acq_rate_hz": Parameter("sampling rate", ("sensor",), "Hz", (0, 1_000_000), 0.02),
        "acq_microns_per_pixel": Parameter("pixel size", ("histology",), "um", (0, 1000), 0.02),
    }
)
NUMBERS = tuple(name for name, one in PARAMETERS.items() if one.possible is not None)


def named(name: Any) -> bool:
    """Whether it is a name of the vocabulary."""
    return isinstance(name, str) and name in PARAMETERS


def possible(name: str, value: Any) -> bool:
    """Whether a number can be the value of a parameter that is one."""
    span = PARAMETERS[name].possible
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return span is not None and number and span[0] <= value <= span[1]  # false for what is not a number, too


def names_of(modality: str) -> tuple[str, ...]:
    """The names that mean something for specs of a modality; all where there is none."""
    return tuple(name for name, one in PARAMETERS.items() if modality in one.modalities) or tuple(PARAMETERS)


def folded(told: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The known ones of what a record holds, and how many others."""
    known = {name: value for name, value in told.items() if name in PARAMETERS}
    return known, len(told) - len(known)
