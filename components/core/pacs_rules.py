"""The `[pacs]` part of a disease: which series or images of a study its model may be asked about, and the codes of its report.

Data only; `serving/pacs/selection.py` applies the rules one by one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Code = tuple[
    Annotated[str, Field(min_length=1, max_length=16)], Annotated[str, Field(min_length=1, max_length=16)], Annotated[str, Field(max_length=64)]
]
"""Value, coding scheme, meaning: as in a DICOM code sequence."""


class PacsRules(BaseModel):
    """Rules and codes of one disease.

    Args:
        unit: What one answer is about: a `series` of slices, or a single `image` (then one of each eye, where images name the side).
        modalities, sop_classes: Allowed. A study without any of the modalities does not concern the model; that is no refusal.
        body_parts: Allowed values of Body Part Examined; empty: any. An image that names none is let through: the archive often has none.
        excluded: Words of Image Type that rule an image out.
        images: Least and most images of a series.
        slice_mm: Least and most distance of neighbouring slices.
        orientation: The plane of the slices.
        contrast: Whether a contrast agent may, must or must not have been given.
        sequence: Words in the description of the sequence or series, one of which must be there; MR only knows its weighting by name.
        not_sequence: Words there of which none may be.
        acquisition: MR Acquisition Type: slice by slice, or the volume at once.
        echo_ms: Least and most echo time.
        device_key: Header fields that make a scanner, where `device.key` of the spec names columns of a table.
        finding, site: What is looked for, and where.
        probability: What the probability of the positive class is called.
        decisions: Class -> code.
        overlay: `segmentation` of what was found, or a `picture`: the image with the answer beside it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    unit: Literal["series", "image"]
    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2,16}$")], ...] = Field(min_length=1)
    sop_classes: tuple[Annotated[str, Field(pattern=r"^[0-9.]{10,64}$")], ...] = Field(min_length=1)
    body_parts: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ("LOCALIZER", "DERIVED", "SECONDARY")
    images: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 2000)
    slice_mm: tuple[float, float] | None = None
    orientation: Literal["axial", "sagittal", "coronal", "any"] = "any"
    contrast: Literal["any", "with", "without"] = "any"
    sequence: tuple[str, ...] = ()
    not_sequence: tuple[str, ...] = ()
    acquisition: Literal["2D", "3D", "any"] = "any"
    echo_ms: tuple[float, float] | None = None
    device_key: tuple[str, ...] = ()
    finding: Code
    site: Code
    probability: Code
    decisions: dict[str, Code]
    overlay: Literal["segmentation", "picture", "none"] = "none"

    @model_validator(mode="after")
    def _order(self) -> PacsRules:
        if self.images[0] > self.images[1]:
            raise ValueError(f"images|{list(self.images)}|[least, most]")
        if self.slice_mm is not None and not 0 < self.slice_mm[0] <= self.slice_mm[1]:
            raise ValueError(f"slice_mm|{list(self.slice_mm)}|[least, most], above 0")
        if self.echo_ms is not None and not 0 <= self.echo_ms[0] <= self.echo_ms[1]:
            raise ValueError(f"echo_ms|{list(self.echo_ms)}|[least, most]")
        return self
