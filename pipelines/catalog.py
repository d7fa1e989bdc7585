"""The catalogue: one `.toml` per disease in `diseases/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec

FOLDER = Path(__file__).parent / "diseases"


def names() -> list[str]:
    """All diseases, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(disease: str) -> DiseaseSpec:
    """A disease by its name, or from a path that ends in `.toml`. Raises SpecError listing what there is."""
    if disease.endswith(".toml"):
        return DiseaseSpec.from_toml(disease)
    if disease not in names():
        raise SpecError(f"No disease '{disease}'. Diseases: {', '.join(names())}")
    return DiseaseSpec.from_toml(FOLDER / f"{disease}.toml")


def summary(spec: DiseaseSpec) -> dict[str, Any]:
    """What a list of diseases shows of one."""
    return {
        "name": spec.name,
        "title": spec.title,
        "modality": spec.input.modality,
        "families": sorted(spec.families),
        "survey_row": spec.survey_row,
    }
