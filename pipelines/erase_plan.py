"""Who is meant and what is held of them, written down before anything changes: an erasure that is killed is finished by the next one.

A plan is `DXFLOW_HOME/erasing/<random>.json`: keyed hashes, nothing else, and gone with the erasure. It is needed because each place names the
patient in its own way (the log by patient, labels by answer, tables by sample), and what links them is erased on the way.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core import registry
from components.core.atomic import write_text
from components.core.erasure import Ids, read
from components.core.errors import SpecError
from components.core.home import home, tracking_uri
from components.core.inference_log.erasure import Match, related
from components.core.pseudonym import Pseudonymiser
from pipelines.erase_rooms import room_of

if TYPE_CHECKING:
    import pandas as pd

KEY = re.compile(r"[0-9a-f]{16}")
WHO = ("patient_id", "group_id", "sample_id", "series_id", "lesion_id", "split")
FITTED = ("train", "val")
"""Splits that a model is fitted on: its weights, or its calibration, operating point and the moment training stopped."""


@dataclass
class Plan:
    """One erasure.

    Args:
        token: Random; says nothing about the patient.
        fitted: Registered versions `name:version` that were fitted on the patient.
        unknown: Versions of which nothing is left that could tell.
        datasets: Folders that go whole.
    """

    ids: Ids
    logs: list[str]
    state: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    fitted: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    datasets: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return folder() / f"{self.token}.json"

    def save(self) -> None:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(self.path, json.dumps(vars(self) | {"ids": self.ids.to_dict()}))

    def close(self) -> None:
        """The plan's own bytes go too."""
        with open(self.path, "r+b") as handle:
            handle.write(b" " * os.fstat(handle.fileno()).st_size)
            os.fsync(handle.fileno())
        self.path.unlink()


def folder() -> Path:
    return home() / "erasing"


def pending() -> list[Plan]:
    """Plans of erasures that were cut off. One that was being closed holds nothing any more and goes."""
    found = []
    for path in sorted(folder().glob("*.json")):
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            path.unlink()
            continue
        raw["ids"] = Ids.from_dict(raw["ids"])
        found.append(Plan(**raw))
    return found


def keys_of(patient: str, pseudonymiser: Pseudonymiser) -> frozenset[str]:
    """What a hospital's id becomes here, now and in records of before: a patient, and a word or a part of a path that ingest met.

    Raises:
        SpecError: Empty, or not one line.
    """
    if not patient.strip(" \0") or len(patient) > 256 or not patient.isprintable():
        raise SpecError("not a patient's id", where="PATIENT", allowed="one line of at most 256 characters")
    found = set(pseudonymiser.forms("patient", patient))
    for form in ("NFC", "NFD"):
        spelt = unicodedata.normalize(form, patient)
        for word in (" ".join(spelt.split()), re.sub(r"[\W_]+", "", spelt)):
            found |= pseudonymiser.forms("word", word) if word else set()
        for path in pseudonymiser.forms("path", spelt):
            found |= {path, f"path-{path}"}
    return frozenset(found)


def made(keys: frozenset[str], logs: Sequence[Path], state: Path, nobody: frozenset[str]) -> Plan:
    """Follow a patient from table to log: every id that stands for them, and the models that were fitted on them."""
    ids = Ids(keys=keys)
    fitted, known, datasets = set[str](), set[str](), dict[str, int]()
    for path, table, versions in _who():
        known.update(versions)
        own = table["patient_id"].isin(keys) | table["group_id"].isin(keys) | table["sample_id"].isin(keys)
        if not own.any():
            continue
        mine, others = table[own], table[~own]
        own_only = {name: frozenset(mine[name].dropna()) - frozenset(others[name].dropna()) for name in WHO if name != "split"}
        ids |= Ids(
            keys=own_only["group_id"] | own_only["patient_id"], studies=own_only["series_id"], samples=own_only["sample_id"] | own_only["lesion_id"]
        )
        if mine["split"].isin(FITTED).any():
            fitted.update(versions)
        room = room_of(path.relative_to(home()))
        if path.name == "manifest.parquet" and room is not None and room.what == "swept":
            datasets[str(path.parent)] = int(own.sum())
    for log in logs:
        found = related(log, ids.keys, nobody=nobody)
        ids |= Ids(studies=found["study"] | found["series"], requests=found["request_id"] | found["event_id"])
    every = {f"{v.name}:{v.version}" for v in registered()}
    return Plan(ids, [str(log) for log in logs], str(state), fitted=sorted(fitted), unknown=sorted(every - known), datasets=datasets)


def match_of(ids: Ids) -> Match:
    """The records of the inference log that are meant. A key is 16 hexadecimal characters of a keyed hash: no other column of these has it."""
    return {"patient": ids.keys, "study": ids.studies, "series": ids.studies, "request_id": ids.requests, "event_id": ids.requests}


def registered() -> list[registry.Version]:
    """All versions of the registry; none where there is no registry yet, which asking would make."""
    address = tracking_uri()
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
        return []
    return [version for name in registry.names() for version in registry.versions(name)]


def _who() -> Iterator[tuple[Path, pd.DataFrame, list[str]]]:
    """Every table that says who was in which split: datasets, and what `keep_who` kept of datasets that are gone; with the versions fitted on it."""
    versions = versions_of()
    for path in sorted(home().glob("**/manifest.parquet")):
        yield path, _columns(path), versions.get(str(path.parent), [])
    for path in sorted((home() / "fitted").glob("*.parquet")):
        name, _, version = path.stem.rpartition("-")
        yield path, _columns(path), [f"{registry.package_name(name)}:{version}"]


def keep_who(dataset: Path, ids: Ids) -> None:
    """Before a dataset goes: who else was in it, for each model fitted on it, so that the next erasure can still tell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.core.atomic import atomic_file
    from components.core.erasure import rows_of

    for name in versions_of().get(str(dataset), []):
        model, _, version = name.rpartition(":")
        table = pa.Table.from_pandas(_columns(dataset / "manifest.parquet"), preserve_index=False).replace_schema_metadata(None)
        with atomic_file(home() / "fitted" / f"{registry.mlflow_name(model)}-{version}.parquet") as partial:
            pq.write_table(table.filter(~rows_of(table, ids.all)), partial)


def versions_of() -> dict[str, list[str]]:
    """Dataset folder -> versions fitted on it, by what the runs left."""
    found: dict[str, list[str]] = {}
    for path in sorted(home().glob("runs/*/outputs.json")):
        try:
            outputs = json.loads(path.read_text(encoding="utf-8"))
            record = json.loads((Path(outputs["package"]) / "registration.json").read_text(encoding="utf-8"))
            found.setdefault(outputs["dataset"], []).append(f"{record['name']}:{record['version']}")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {dataset: sorted(set(names)) for dataset, names in found.items()}


def _columns(path: Path) -> pd.DataFrame:
    table = read(path).to_pandas()
    return table.reindex(columns=list(WHO)).astype("string")
