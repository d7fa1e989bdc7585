"""`dxflow quarantine`: what the files and rows that ingest could not use are called in the source. Needs the source and the key."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import click

from components.core.errors import DataError
from pipelines.answer_rows import shown

COLUMNS = ["file", "reason", "offset"]


@click.command()
@click.argument("source")
@click.argument("listed", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON value on the last line, for scripts.")
def quarantine(source: str, listed: Path, as_json: bool) -> None:
    """Name the files of SOURCE that LISTED holds in keyed hashes: a dataset folder, its quarantine.parquet, or a list of DXFLOW_HOME/refused."""
    rows = resolved(source, listed)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{shown(row['file'])}{'' if row['offset'] is None else ', ' + str(row['offset'])}: {row['reason']}")
    unknown = sum(row["unknown"] for row in rows)
    click.echo(
        f"{len(rows)} {'entry' if len(rows) == 1 else 'entries'}"
        + (f", of {unknown} a part is in no path of the source, or was hashed with another key" if unknown else "")
    )


def resolved(source: str, listed: Path) -> list[dict[str, Any]]:
    """`file` in clear, `reason`, `offset` (byte or line, None without), of a dataset `skipped`, `unknown` where a part was not found.

    Raises:
        DataError: No such source or list.
    """
    from components.core.pseudonym import load_pseudonymiser
    from components.ingest.deidentify import path_pseudonym
    from components.ingest.source import open_source

    rows = _rows(listed)
    pseudonymiser, _ = load_pseudonymiser()
    parts = {part for item in open_source(source).items for part in item.path.split("/")}
    clear = {path_pseudonym(part, pseudonymiser): part for part in parts}
    found = []
    for row in rows:
        hashed = row["file"].split("/")
        unknown = any(part.startswith("path-") and part not in clear for part in hashed)
        found.append({**row, "file": "/".join(str(clear.get(part, part)) for part in hashed), "unknown": unknown})
    return found


def _rows(listed: Path) -> list[dict[str, Any]]:
    """`file`, `reason`, `offset` of every entry."""
    path = listed / "quarantine.parquet" if listed.is_dir() else listed
    if not path.is_file():
        allowed = "a dataset folder, quarantine.parquet, or a .csv of DXFLOW_HOME/refused"
        raise DataError("no such list", where="LISTED", got=str(listed), allowed=allowed)
    if path.suffix == ".csv":
        try:
            with open(path, newline="", encoding="utf-8") as handle:
                rows = list(csv.DictReader(handle))
            if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
                raise ValueError
            return [{**row, "offset": int(row["offset"]) if row["offset"] else None} for row in rows]
        except (ValueError, csv.Error):
            raise DataError("not a list of what ingest refused", where=str(path), allowed=f"columns {', '.join(COLUMNS)}") from None
    from components.core.erasure import read

    table = read(path)
    if not set(COLUMNS) <= set(table.column_names):
        raise DataError("not a list of what ingest refused", where=str(path), allowed=f"columns {', '.join(COLUMNS)}")
    return table.to_pylist()
