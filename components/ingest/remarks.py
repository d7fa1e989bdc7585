"""What a source says in a column or field that is there, and nobody can read: the value stays empty, and the number is told."""

from __future__ import annotations

from collections.abc import Iterable

from components.core.covariates import PREFIX
from components.core.pseudonym import Pseudonymiser
from components.ingest.study_facts import AGES, covariates

DATE = "acquired_at that is no ISO date, left empty"
DICOM_DATE = "images with dates of which none can be read, left undated"
AGE = "age that is no number of years, left empty"
SEX = "sex of another word than F, M or O, left empty"
CASE = "ids of persons that differ from another's in case or blanks alone, taken as other persons"
TOLD = frozenset((DATE, DICOM_DATE, AGE, SEX, CASE))
"""Notes that the step says as warnings."""
MISSING = frozenset(("", "n/a", "na", "nan", "nat", "none", "null", "unknown", "u", "?", "-"))


def persons(names: Iterable[str], file: int, pseudonymiser: Pseudonymiser) -> list[tuple[str, str, int, str]]:
    """Findings of kind "person" for the journal: ids that differ in case or blanks alone share a group, so that `Journal.alike` can count them."""
    return [("person", pseudonymiser.id("word", name), file, pseudonymiser.id("patient", name)) for name in sorted(set(names)) if name]


def unread(row: dict[str, str], *, dated: bool) -> list[str]:
    """Names of what a table's row says and nobody can read.

    Args:
        row: Values by column names in small letters.
        dated: Whether `acquired_at` was read.
    """
    told = covariates(row)
    age = _first(row, AGES)
    found = [DATE] * (not dated and _first(row, ("acquired_at",)) != "")
    found += [AGE] * (age != "" and told[f"{PREFIX}age_years"] is None)
    return found + [SEX] * (_first(row, ("sex", "gender")) != "" and told[f"{PREFIX}sex"] is None)


def _first(row: dict[str, str], columns: tuple[str, ...]) -> str:
    """The first value that says something."""
    return next((row[name].strip() for name in columns if row.get(name, "").strip().lower() not in MISSING), "")
