"""What of an answer is watched, in which group, and how a table of logged answers becomes the columns of a sketch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.core import embedding, image_quality
from components.core.errors import DataError
from components.core.inference_log.tables import SLIDE
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE
from components.monitor.case_mix import CaseMix
from components.monitor.header import Headers
from components.monitor.reference import Beside, Reference

if TYPE_CHECKING:
    import pandas as pd

Group = Literal["header", "acquisition", "image", "scores", "embedding", "answers"]
NOT_FIGURES = ("sample_id", "group_id", "patient_id", "device_key", "manufacturer", "model", "split", "label", "abstain", "decision", "software")
NOT_PHYSICAL = ("software", "acq_transfer_syntax", "acq_rows", "acq_columns", "acq_bits", "acq_photometric", "acq_modality")
"""Tags that say how an image is stored: pixels cannot contradict them."""
ABSTAIN = "abstained"
OF_SLIDE = "slide_"
"""Before the name of a score: of whole slides, where the plain name is of tiles."""
TILES, SLIDES = "scores of tiles", "scores of whole slides"
NO_SLIDES = f"{SLIDES} were not compared: the package has none to compare with"
COVARIATE = "cov_"
"""What an answer's patient is, not what the device made: never watched itself, only the case mix."""


@dataclass(frozen=True)
class Watched:
    """The features of one model's answers.

    Args:
        groups: Feature -> group, in the order of the reference's columns.
        texts: Features whose values are names.
        headers: What the pixels say of the declared acquisition parameters.
        mix: Strata of the patients, from the covariates that the reference has.

    Where the spec aggregates, answers are of two kinds. A slide's scores are compared with those of slides (`groups.parquet`), a tile's with those of
    tiles; a slide's image figures are those of one of its tiles.
    """

    model: ModelPackage
    groups: Mapping[str, Group]
    texts: frozenset[str]
    headers: Headers
    mix: CaseMix = field(default_factory=CaseMix)

    @classmethod
    def of(cls, model: ModelPackage) -> Watched:
        """From a package's reference. Raises DataError where it has no devices or nothing to compare."""
        table = model.reference
        if "device_key" not in table or not len(table):
            raise DataError("reference without devices", where=f"{model.name}/reference.parquet", got=f"{len(table)} rows", allowed="device_key")
        groups: dict[str, Group] = {}
        embedded = model.projection.names if model.projection else ()
        for name in table.columns:
            if name.startswith("score_"):
                groups[name] = "scores"
            elif name.startswith("acq_") or name == "software":
                groups[name] = "acquisition"
            elif name.startswith(embedding.PREFIX):
                if name in embedded:
                    groups[name] = "embedding"
            elif name in NOT_FIGURES or name.startswith(COVARIATE):
                continue
            elif model.spec.input.layout == "table" or name in image_quality.names(model.spec):
                groups[name] = "image"
        groups = {name: group for name, group in groups.items() if table[name].notna().any() and name not in _complements(model)}
        texts = {name for name in groups if not _numeric(table[name])}
        images = [name for name, group in groups.items() if group == "image"]
        tags = [name for name, group in groups.items() if group == "acquisition" and name not in NOT_PHYSICAL]
        headers = Headers.learn(table, images, tags, reference_patients(table))
        groups |= dict.fromkeys(headers.features, "header")
        texts |= set(headers.features)
        if "abstain" in table:
            groups[ABSTAIN] = "answers"
            texts.add(ABSTAIN)
        if model.groups is not None:
            scores = [name for name, group in groups.items() if group == "scores" and name in model.groups]
            groups |= {OF_SLIDE + name: "scores" for name in scores}
        plain = cls(model, groups, frozenset(texts), headers)
        columns = {name: values for name, values in plain.reference_columns().items() if groups[name] != "header"}
        mix = CaseMix.learn(table, columns, table["device_key"].astype(str).tolist(), reference_patients(table))
        return replace(plain, mix=mix)

    @cached_property
    def reference(self) -> Reference:
        """The baselines of all devices."""
        table, columns = self.model.reference, self.reference_columns()
        names = self.mix.names
        strata = [names[k] for k in self.mix.strata(table).tolist()]
        devices_ = table["device_key"].astype(str).tolist()
        plain = {name: columns[name] for name in self.groups if not name.startswith(OF_SLIDE)}
        return Reference.of(plain, devices_, reference_patients(table), strata, named=names, beside=self._beside(), apart=self._apart())

    def _beside(self) -> Beside | None:
        table = self.model.groups
        if table is None:
            return None
        wanted = [name for name in self.groups if name.startswith(OF_SLIDE)]
        columns = {name: table[name.removeprefix(OF_SLIDE)].to_numpy(dtype=np.float64) for name in wanted}
        return Beside(columns, table["device_key"].astype(str).tolist(), reference_patients(table))

    def _apart(self) -> dict[str, str]:
        if self.model.spec.aggregate is None:
            return {}
        return {name: SLIDES if name.startswith(OF_SLIDE) else TILES for name, group in self.groups.items() if group == "scores"}

    @property
    def score(self) -> str | None:
        """The feature that is the probability of the positive class: of whole slides where these have a reference."""
        scores = [name for name, group in self.groups.items() if group == "scores"]
        return next((name for name in scores if name.startswith(OF_SLIDE)), scores[0] if scores else None)

    def blind(self, answers: pd.DataFrame) -> set[str]:
        """Devices with answers about slides whose scores nothing can be compared with."""
        if self.model.spec.aggregate is None or self.model.groups is not None:
            return set()
        return set(np.array(devices(answers))[of_slides(answers)].tolist())

    def answering(self, answers: pd.DataFrame) -> NDArray[np.bool_]:
        """(n,) logged answers of the kind that the model is judged by: of whole slides where the spec aggregates."""
        return of_slides(answers) if self.model.spec.aggregate is not None else np.ones(len(answers), bool)

    @property
    def answered(self) -> pd.DataFrame | None:
        """The reference of such answers; None where the package has none."""
        return self.model.groups if self.model.spec.aggregate is not None else self.model.reference

    def reference_columns(self) -> dict[str, Any]:
        """Feature -> (n,) values of the reference's samples."""
        headers = zip(self.headers.features, self.headers.reference, strict=True)
        return self._columns(self.model.reference) | dict(headers)

    def columns(self, answers: pd.DataFrame) -> dict[str, Any]:
        """Feature -> (n,) values of logged answers; what a record does not have is missing."""
        columns = self._columns(answers)
        return columns | self.headers.of(answers)

    def _columns(self, table: pd.DataFrame) -> dict[str, Any]:
        import pandas as pd

        out: dict[str, Any] = {}
        projection = self.model.projection
        projected = projection.columns(list(table["embedding"])) if projection and "embedding" in table else {}
        for name, group in self.groups.items():
            if group == "header":
                continue
            if name in projected:
                out[name] = projected[name]
                continue
            if name == ABSTAIN:
                out[name] = np.where(table["abstain"].astype(bool), "yes", "no").astype(object)
            elif self.model.spec.aggregate is not None and group == "scores":
                out[name] = self._score(table, name)
            elif name not in table:
                out[name] = np.full(len(table), None if name in self.texts else np.nan, dtype=object if name in self.texts else np.float64)
            elif name in self.texts:
                out[name] = np.array([None if pd.isna(v) or v == "" else str(v) for v in table[name]], dtype=object)
            else:
                out[name] = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
        return out

    def _score(self, table: pd.DataFrame, name: str) -> NDArray[np.float64]:
        """Of slides or of tiles; missing in rows of the other kind."""
        import pandas as pd

        plain = name.removeprefix(OF_SLIDE)
        values = pd.to_numeric(table[plain], errors="coerce").to_numpy(dtype=np.float64) if plain in table else np.full(len(table), np.nan)
        return np.where(of_slides(table) == name.startswith(OF_SLIDE), values, np.nan)


def of_slides(answers: pd.DataFrame) -> NDArray[np.bool_]:
    """(n,) which logged answers are about whole slides."""
    return answers["source"].eq(SLIDE).fillna(False).to_numpy(bool) if "source" in answers else np.zeros(len(answers), bool)


def devices(answers: pd.DataFrame) -> list[str]:
    """Device keys of logged answers; what has none is `UNKNOWN_DEVICE`."""
    return answers["device_key"].fillna(UNKNOWN_DEVICE).astype(str).tolist()


def patients(answers: pd.DataFrame) -> list[str]:
    """Whose each answer is; one without a patient is its own."""
    return answers["patient"].fillna(answers["request_id"]).astype(str).tolist()


def probabilities(table: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.float64]:
    """(n, K) of the columns `score_<class>`; NaN where there is none."""
    import pandas as pd

    out = np.full((len(table), len(classes)), np.nan)
    for k, name in enumerate(classes):
        if f"score_{name}" in table:
            out[:, k] = pd.to_numeric(table[f"score_{name}"], errors="coerce").to_numpy(dtype=np.float64)
    return out


def _complements(model: ModelPackage) -> set[str]:
    """Of two probabilities that sum to 1 one says it all."""
    target = model.spec.target
    return {f"score_{name}" for n, name in enumerate(target.classes) if n != model.spec.positive_index} if target.kind == "binary" else set()


def reference_patients(table: pd.DataFrame) -> list[str]:
    """Whose each sample of a reference is; one without a patient is its own."""
    import pandas as pd

    own = pd.Series([f"sample-{n}" for n in range(len(table))], index=table.index)
    named = next((table[c] for c in ("group_id", "patient_id") if c in table), own)
    return named.where(named.notna(), own).astype(str).tolist()


def _numeric(column: pd.Series) -> bool:
    return column.dtype.kind in "biuf"
