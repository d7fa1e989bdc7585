"""A chest CT series: nodules found and outlined by the chain, each answered by the model. The steps are those of `dxflow find`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from components.core.chain.candidate_classifier import Detector
from components.core.chain.ct_volume import volume_of
from components.core.chain.findings import Finding, check
from components.core.chain.findings import find as located
from components.core.cores import available_cores
from components.core.pseudonym import Pseudonymiser
from serving import nodules
from serving.pacs.answer import Item, Place, StudyAnswer, source
from serving.predictor import Predictor

DETECTOR = "dxflow nodule detector"


@dataclass(frozen=True)
class ChestCt:
    """Answers series for a model that looks at CT patches. Raises SpecError for another model."""

    model: Predictor
    detector: Detector
    pseudonymiser: Pseudonymiser

    def __post_init__(self) -> None:
        check(self.model.spec)

    def answer(self, files: Sequence[bytes]) -> StudyAnswer:
        """Find, outline, diagnose.

        Args:
            files: The series' DICOM files, in any order.

        Raises:
            DataError: The series cannot be used; no value of a header in the text.
        """
        named = {f"image {n}": data for n, data in enumerate(files, 1)}
        volume = volume_of(named, where="series", spec=self.model.spec, pseudonymiser=self.pseudonymiser, workers=available_cores())
        found, _ = located(volume, self.detector)
        queries = nodules.queries(volume, found, self.model.spec) if found else []
        answered = self.model.work(queries) if queries else []
        items = [Item(one.answer, _slices(finding), _place(finding)) for finding, one in zip(found, answered, strict=True)]
        return StudyAnswer(
            items=tuple(items), sources=tuple(source(named[name]) for name in volume.files), about="series",
            synthetic=volume.synthetic or self.model.package.synthetic or self.detector.synthetic,
            tools=((DETECTOR, hashlib.sha256(self.detector.to_json().encode()).hexdigest()[:12], self.detector.made_from),),
            queries=tuple(queries), answered=tuple(answered),
        )  # fmt: skip


def _slices(finding: Finding) -> tuple[int, ...]:
    first = finding.region.corner[0]
    return tuple(range(first, first + len(finding.region.mask)))


def _place(finding: Finding) -> Place:
    region = finding.region
    return Place(finding.position_mm, finding.diameter_mm, finding.volume_mm3, finding.detection, region.corner, region.mask)
