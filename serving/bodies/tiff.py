"""A TIFF photograph or slice, for models that do not take TIFF for a slide."""

from __future__ import annotations

from components.core.imaging import picture_kinds
from components.core.spec import DiseaseSpec
from serving.bodies import picture, slide
from serving.bodies.picture import read

__all__ = ["TYPES", "fits", "read"]

TYPES = (picture_kinds.TIFF.content_type,)


def fits(spec: DiseaseSpec) -> bool:
    """Whatever takes pictures, but for models of slides."""
    return picture.fits(spec) and not slide.fits(spec)
