"""Photographs, one of each eye: the model's answer for each, and where in the picture it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.core.errors import DataError, SpecError
from components.core.imaging.dicom import DicomImage, read_dicom
from components.core.imaging.fit import fit
from components.core.pacs_rules import PacsRules
from components.core.pseudonym import Pseudonymiser
from components.core.spec import Device, DiseaseSpec
from serving.bodies.dicom import query_of
from serving.pacs.answer import Item, StudyAnswer, source
from serving.predictor import Predictor


@dataclass(frozen=True)
class Photographs:
    """Answers photographs for a model that takes them whole. Raises SpecError for another model."""

    model: Predictor
    rules: PacsRules
    pseudonymiser: Pseudonymiser

    def __post_init__(self) -> None:
        wanted = self.model.spec.input
        if wanted.layout != "image" or wanted.shape[0] != 3:
            raise SpecError(
                "not a model for photographs", where=self.model.spec.name, got=f"{wanted.layout} {list(wanted.shape)}", allowed="[3, h, w]"
            )

    @property
    def _spec(self) -> DiseaseSpec:
        """The model's, with the header fields that make a camera in place of columns of a table."""
        spec, key = self.model.spec, self.rules.device_key
        return spec.model_copy(update={"device": Device(key=key, min_n=spec.device.min_n)}) if key else spec

    def answer(self, files: Sequence[bytes]) -> StudyAnswer:
        """Answer each photograph. Raises DataError where one cannot be used."""
        images = [self._read(data, n) for n, data in enumerate(files, 1)]
        queries = [query_of(fit(image.frames[0], self.model.spec.input), image.header, image.header.covariates) for image in images]
        found = [self.model.explain(query) for query in queries]
        items = [Item(one.answered.answer, (n,), heat=one.heat, method=one.method or "") for n, one in enumerate(found) if one is not None]
        return StudyAnswer(
            items=tuple(items), sources=tuple(source(data) for data in files), about="image",
            synthetic=self.model.package.synthetic or any(image.header.synthetic for image in images),
            pictures=tuple(image.frames[0] for image in images), queries=tuple(queries),
            answered=tuple(one.answered for one in found if one is not None),
        )  # fmt: skip

    def _read(self, data: bytes, number: int) -> DicomImage:
        image = read_dicom(data, spec=self._spec, pseudonymiser=self.pseudonymiser)
        if image.frames.shape[0] != 1 or image.frames.shape[3:] != (3,) or image.frames.dtype != np.uint8:
            raise DataError("not one photograph in colours of 8 bits", where=f"image {number}")
        return image
