"""What may be known of a patient beside the image, and in which words: the allow-list of ingest, of specs and of requests.

Covariates say something of a person, so they pass through here and nowhere else: ages over 89 are one age (HIPAA Safe Harbor, 45 CFR
164.514(b)(2)(i)(C)), sex is a letter, the place on the body a word of a vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from components.core.errors import DataError

NAMES = ("age_years", "sex", "body_site")
"""Features of the feature store's view `covariates`; what `DiseaseSpec.covariates` may name."""
NUMBERS = ("age_years",)
PREFIX = "cov_"  # of their columns in a reader's row, the inference log and the drift reference
MAX_AGE_DAYS = 365.0
"""What was told longer before the image than this is stale, and counts as not told. What bears no date does not age."""
EVER, OLDEST = 130, 90  # years: the highest age that is taken for one; the age that stands for itself and all above it
SEXES = ("F", "M", "O")
AGE_STRING = re.compile(r"([0-9]{3})([DWMY])")
PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.25}
# HAM10000's words and the ISIC archive's (https://www.isic-archive.com), in small letters.
BODY_SITES = frozenset(
    ("abdomen", "acral", "anterior torso", "back", "chest", "ear", "face", "foot", "genital", "hand", "head/neck", "lateral torso", "lower extremity",
     "neck", "oral/genital", "palms/soles", "posterior torso", "scalp", "trunk", "upper extremity")
)  # fmt: skip


def whole_years(years: float) -> float | None:
    """An age as it is kept: whole years in [0, 90]; None outside [0, 130]."""
    return float(min(OLDEST, int(years))) if math.isfinite(years) and 0 <= years <= EVER else None


def checked(name: str, value: Any, *, where: str) -> float | str:
    """A covariate as ingest would have kept it.

    Args:
        name: One of `NAMES`.
        value: An age in years, a letter, or a word of `BODY_SITES`.

    Raises:
        DataError: Another kind or another range. The line does not quote the value.
    """
    if name in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError("not a number", where=where, allowed=f"0 to {EVER} years")
        if (years := whole_years(value)) is None:
            raise DataError("out of range", where=where, allowed=f"0 to {EVER} years; over 89 counts as {OLDEST}")
        return years
    words = SEXES if name == "sex" else sorted(BODY_SITES)
    if not isinstance(value, str) or value not in words:
        raise DataError("not a word of the vocabulary", where=where, allowed=", ".join(words))
    return value


def of_dicom(names: Collection[str], *, age: str, sex: str) -> dict[str, float | str]:
    """What a DICOM header tells of the named covariates. What is impossible or of another form is not told: nobody can mend a header.

    Args:
        names: Of `NAMES`; those that a header has no word of ours for are never told by one.
        age: Patient's Age (0010,1010), e.g. `045Y` or `018M`. `000Y` stands where nobody filled one in: infants' are in days, weeks, months.
        sex: Patient's Sex (0010,0040).

    Source:
        DICOM PS3.5 6.2 (AS), PS3.3 C.2.3 (Patient's Sex: M, F, O).
    """
    found: dict[str, float | str] = {}
    if "age_years" in names and (parts := AGE_STRING.fullmatch(age)) and age != "000Y":
        years = whole_years(int(parts[1]) / PER_YEAR[parts[2]])
        if years is not None:
            found["age_years"] = years
    if "sex" in names and sex in SEXES:
        found["sex"] = sex
    return found


def agreed(told: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What all images of a series say alike; where one contradicts or does not say it, it is not told."""
    rows = list(told)
    return {name: value for name, value in rows[0].items() if all(row.get(name) == value for row in rows)} if rows else {}
