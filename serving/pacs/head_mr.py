"""An MR series of a head: brought to the grid that the model takes, and answered as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.core.errors import SpecError
from components.core.pseudonym import Pseudonymiser
from serving.bodies.dicom import in_dicom_words, volume
from serving.pacs.answer import Item, StudyAnswer, source
from serving.predictor import Predictor


@dataclass(frozen=True)
class HeadMr:
    """Answers series for a model that takes a whole volume. Raises SpecError for another model."""

    model: Predictor
    pseudonymiser: Pseudonymiser

    def __post_init__(self) -> None:
        wanted = self.model.spec.input
        if wanted.layout != "volume" or wanted.modality != "MR" or wanted.spacing_mm is None:
            raise SpecError("not a model for MR volumes", where=self.model.spec.name, got=f"{wanted.modality} {wanted.layout}", allowed="MR volume")

    def answer(self, files: Sequence[bytes]) -> StudyAnswer:
        """Answer one series.

        Args:
            files: Its DICOM files, in any order.

        Raises:
            DataError: No regular stack, or no head in it; no value of a header in the text.
        """
        query, synthetic = volume(files, in_dicom_words(self.model.spec), self.pseudonymiser)
        (found,) = self.model.work([query])
        return StudyAnswer(
            items=(Item(found.answer, tuple(range(len(files)))),), sources=tuple(source(data) for data in files), about="volume",
            synthetic=synthetic or self.model.package.synthetic, queries=(query,), answered=(found,),
        )  # fmt: skip
