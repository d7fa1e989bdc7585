"""What ingest learns of studies and of patients beside the samples: the rows of the feature store's views
`acquisition`, `covariates` and `image_quality`.

Covariates say something of a person, so they pass through the allow-list of `components/core/covariates.py`, never enter the manifest, and are filed
under pseudonyms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from statistics import median_low
from typing import Any

from components.core.covariates import BODY_SITES, NAMES, PREFIX, whole_years
from components.core.dataset import MANIFEST

AGES = ("age", "age_years", "age_approx")
SEXES = {"f": "F", "female": "F", "m": "M", "male": "M", "o": "O", "other": "O"}
ACQUISITION = tuple(name for name in MANIFEST if name.startswith("acq_") or name == "software")


def covariates(row: dict[str, str]) -> dict[str, Any]:
    """`cov_*` of a table's row (names in small letters); None where it is empty, unknown, or outside the allow-list."""
    site = next((row[name] for name in ("localization", "body_site", "anatom_site_general") if row.get(name, "").strip()), "").strip().lower()
    return {
        PREFIX + "age_years": _age(next((row[name] for name in AGES if row.get(name, "").strip()), "")),
        PREFIX + "sex": SEXES.get((row.get("sex", "") or row.get("gender", "")).strip().lower()),
        PREFIX + "body_site": site if site in BODY_SITES else None,
    }


def _age(text: str) -> float | None:
    """Whole years in [0, 90]."""
    try:
        years = float(text)
    except ValueError:
        return None
    return whole_years(years)


class StudyFacts:
    """Collects what samples say of their study and their patient. Memory grows with studies, not with samples' pixels."""

    def __init__(self) -> None:
        self._studies: dict[str, dict[str, Any]] = {}
        self._patients: dict[tuple[str, datetime | None], dict[str, set[Any]]] = {}

    def take(self, row: dict[str, Any]) -> None:
        """Note one manifest row, and take its `cov_*` out of it."""
        told = {name: row.pop(PREFIX + name, None) for name in NAMES}
        at = row.get("acquired_at")
        if study := row.get("series_id"):
            found = self._studies.setdefault(study, {"at": at, **{name: {} for name in ACQUISITION}})
            found["at"] = min((t for t in (found["at"], at) if t is not None), default=None)
            for name in ACQUISITION:
                if (value := row.get(name)) is not None:
                    found[name][value] = found[name].get(value, 0) + 1
        if (patient := row.get("patient_id")) and any(value is not None for value in told.values()):
            said = self._patients.setdefault((patient, at), {name: set() for name in NAMES})
            for name, value in told.items():
                if value is not None:
                    said[name].add(value)

    def rows(self, quality: Mapping[str, Mapping[str, float]] | None = None) -> dict[str, list[dict[str, Any]]]:
        """Rows of `acquisition` (numbers: the lower median of the study's samples) and `covariates`; words that contradict each other are null.

        Args:
            quality: Figures by study, see `components.ingest.measure.StudyQuality`; they become rows of `image_quality`, dated as the study is.
        """
        studies = [
            {"series_id": key, "event_timestamp": found["at"], **{name: _middle(found[name]) for name in ACQUISITION}}
            for key, found in self._studies.items()
        ]
        patients = [
            {"patient_id": key, "event_timestamp": at, **{name: _only(values) for name, values in said.items()}}
            for (key, at), said in self._patients.items()
        ]
        rows = {"acquisition": studies, "covariates": patients}
        if quality is not None:
            rows["image_quality"] = [{"series_id": key, "event_timestamp": self._studies[key]["at"], **found} for key, found in quality.items()]
        return rows


def _only(values: Iterable[Any]) -> Any:
    """The one value, or None for none and for several."""
    found = list(values)
    return found[0] if len(found) == 1 else None


def _middle(counts: dict[Any, int]) -> Any:
    if not counts or isinstance(next(iter(counts)), str):
        return _only(counts)
    return median_low([value for value, n in counts.items() for _ in range(n)])
