"""Guarded access to the views `acquisition`, `image_quality` (of studies) and `covariates` (of patients).

    write_view   ingest: one parquet file in the features folder, with pyarrow alone
    facts_at     every reader: point-in-time through Feast, each manifest row answered once or an error; missing and stale told apart

A row says what holds from its event time on. A manifest row without a date sees the newest; a row without a date always held.
"""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core import scratch
from components.core.errors import DataError
from feature_store.definitions import CREATED, EVENT, MEASURED, VIEWS, View, view_definitions, view_schema
from feature_store.store import ONLINE, UNDATED_PROFILE, UNDATED_SAMPLE, _each_once, _open, _utc

if TYPE_CHECKING:
    import pandas as pd

STATUS, AGE = "status", "age_days"


def write_view(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Write `<name>.parquet`; the same rows, in any order, give the same bytes.

    Args:
        folder: Exists; see `store.write_profiles`, which makes it whole or not at all.
        rows: The view's key, any of its features (others count as null), and `event_timestamp`: an aware datetime, or None for "always".

    Raises:
        DataError: Two rows of one key at one time, a row without a key, or a feature that the view does not have.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    view = _view(name)
    table = []
    for row in rows:
        if unknown := set(row) - {view.entity, EVENT, CREATED, *view.features}:
            raise DataError("no such feature", where=name, got=", ".join(sorted(unknown)), allowed=", ".join(view.features))
        if not row.get(view.entity):
            raise DataError("a row without its key", where=name, allowed=view.entity)
        event = _utc(row.get(EVENT)) or UNDATED_PROFILE
        measured = round((event - UNDATED_PROFILE).total_seconds() * 1e6)
        table.append(row | {EVENT: event, CREATED: _utc(row.get(CREATED)) or event, MEASURED: measured})
    table.sort(key=lambda r: (r[view.entity], r[EVENT], r[CREATED]))
    if extra := len(table) - len({(r[view.entity], r[EVENT], r[CREATED]) for r in table}):
        raise DataError("two rows of one key at one time", where=name, got=extra, allowed="one")
    pq.write_table(pa.Table.from_pylist(table, schema=view_schema(view)), folder / view.file, coerce_timestamps="us")


def facts_at(folder: Path, name: str, manifest: pd.DataFrame, *, max_age_days: float | None = None) -> pd.DataFrame:
    """What held for each sample's study or patient when the sample was acquired.

    Args:
        manifest: The view's key column and `acquired_at` (UTC or null), any index.
        max_age_days: What was measured longer before the sample is `stale`; None for no limit.

    Returns:
        One row per manifest row, in its order and with its index: `status` (`ok`, `missing`, `stale`), `age_days` (NaN when missing, or when the
        sample or the row has no date: such a row is never stale), and the view's features. Stale rows keep their values, for the record; the
        caller decides by `status`. A feature may be null in a row that is `ok`.

    Raises:
        DataError: The folder has no such view, or Feast lost, repeated or invented a row.
    """
    import numpy as np
    import pandas as pd

    view = _view(name)
    table = _table(folder, view)
    acquired = pd.to_datetime(manifest["acquired_at"], utc=True)
    dated = acquired.notna().to_numpy()
    asked = pd.DataFrame(
        {
            view.entity: manifest[view.entity].astype(object).where(manifest[view.entity].notna(), "").to_numpy(),
            EVENT: acquired.fillna(pd.Timestamp(UNDATED_SAMPLE)).astype("datetime64[us, UTC]").to_numpy(),
        }
    )
    asked[EVENT] = pd.to_datetime(asked[EVENT], utc=True).astype("datetime64[us, UTC]")
    if not len(asked) or not table.num_rows:
        found = pd.DataFrame({n: pd.Series([None] * len(asked), dtype=object) for n in (*view.features, MEASURED)})
    else:
        asked["row_id"] = asked.groupby([view.entity, EVENT], sort=False).ngroup()
        unique = asked.drop_duplicates("row_id")
        with scratch.room("feast") as room:
            store = _open(registry=room / "registry.db", online=room / ONLINE)
            store.apply(view_definitions(view, str((Path(folder) / view.file).absolute())))
            job = store.get_historical_features(
                entity_df=unique.copy(), features=store.get_feature_service(view.service), filter_by_created_timestamp=True
            )
            answer = job.to_df()
        _each_once(answer["row_id"], len(unique))
        found = answer.set_index("row_id").loc[asked["row_id"], [*view.features, MEASURED]].reset_index(drop=True)
    measured = pd.to_numeric(found.pop(MEASURED)).to_numpy(dtype=np.float64)
    out = found.set_index(manifest.index)
    now = (asked[EVENT] - pd.Timestamp(0, tz=UTC)).dt.total_seconds().to_numpy()
    age = np.where(dated & (measured != 0), (now - measured / 1e6) / 86_400, np.nan)  # 0 is UNDATED_PROFILE
    old = age > max_age_days if max_age_days is not None else np.zeros(len(age), bool)
    out.insert(0, STATUS, np.where(np.isnan(measured), "missing", np.where(old, "stale", "ok")))
    out.insert(1, AGE, age)
    return out


def _view(name: str) -> View:
    if name not in VIEWS:
        raise DataError("no such view", where="feature store", got=f"'{name}'", allowed=", ".join(VIEWS))
    return VIEWS[name]


def _table(folder: Path, view: View) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(Path(folder) / view.file)
    except (FileNotFoundError, NotADirectoryError, pa.ArrowInvalid):
        raise DataError(f"the feature store has no view '{view.name}': {view.file} is missing or unreadable", where=str(folder)) from None
    if not table.schema.equals(view_schema(view)):
        raise DataError("feature store of another schema", where=str(folder), allowed=view.service)
    return table
