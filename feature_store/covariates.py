"""What is known of each sample's patient when the sample was acquired, for who fuses, keeps or sends it: train never asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.covariates import MAX_AGE_DAYS, NUMBERS
from feature_store.views import STATUS, facts_at

if TYPE_CHECKING:
    import pandas as pd

VIEW = "covariates"


def told(features: Path, manifest: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """For each manifest row the covariates that are known: what is missing, null or older than `MAX_AGE_DAYS` has no entry.

    Args:
        features: As written by ingest.
        manifest: Columns `patient_id` and `acquired_at`.
        names: As in `DiseaseSpec.covariates`; without any, nothing is read.

    Raises:
        DataError: The folder has no view `covariates`, or Feast lost a row.
    """
    import pandas as pd

    if not names:
        return [{} for _ in range(len(manifest))]
    found = facts_at(features, VIEW, manifest, max_age_days=MAX_AGE_DAYS)
    rows = found[list(names)].astype(object).to_dict("records")
    return [
        {str(name): float(value) if name in NUMBERS else str(value) for name, value in row.items() if not pd.isna(value)} if status == "ok" else {}
        for row, status in zip(rows, found[STATUS], strict=True)
    ]
