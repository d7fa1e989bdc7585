"""The catalogue: one `.toml` per disease in `diseases/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec

FOLDER = Path(__file__).parent / "diseases"
MEASURED = FOLDER / "measured.json"


def names() -> list[str]:
    """All diseases, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(disease: str) -> DiseaseSpec:
    """A disease by its name, or from a path that ends in `.toml`; `<either>:<class>,<class>` is the question about two of its classes.

    Raises:
        SpecError: Lists what there is.
    """
    whole, colon, classes = disease.rpartition(":")
    if colon and "," in classes:
        from pipelines.pairs import pair

        return pair(load(whole), classes)
    if disease.endswith(".toml"):
        return DiseaseSpec.from_toml(disease)
    if disease not in names():
        raise SpecError(f"No disease '{disease}'. Diseases: {', '.join(names())}")
    return DiseaseSpec.from_toml(FOLDER / f"{disease}.toml")


def measured() -> list[dict[str, Any]]:
    """What `make rows` found: one line for each disease and data set, `disease`, `command`, `synthetic`, `family`, `metric`, `value`, `low`, ..."""
    return json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else []


def figure(row: dict[str, Any]) -> str:
    """A measured figure with its interval."""
    if row.get("value") is None:
        return "insufficient evidence"
    if row.get("low") is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} ({row['low']:.3f}-{row['high']:.3f})"


def summary(spec: DiseaseSpec) -> dict[str, Any]:
    """What a list of diseases shows of one."""
    return {
        "name": spec.name,
        "title": spec.title,
        "modality": spec.input.modality,
        "format": spec.input.format or spec.input.reader,
        "families": sorted(spec.families),
        "survey_row": spec.survey_row,
        "metrics": list(spec.metrics),
        "measured": [row for row in measured() if row["disease"] == spec.name],
    }
