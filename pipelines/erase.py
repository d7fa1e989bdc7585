"""`dxflow erase`: one patient out of the inference log, late labels, the monitor's memory, run artifacts and registered packages.

    plan     who is meant, everywhere, in keyed hashes; on the disk before the first change
    work     each place, in any order, as often as it takes
    audit    one line of DXFLOW_HOME/erasures.jsonl, and one signed event of the audit log: time and counts
    forget   the plan

What may be touched is a list, `erase_rooms.py`; whatever else names the patient is told and stays.

What is not done, and said: weights stay fitted on whom they were fitted on; counts of the monitor stay; copies elsewhere are elsewhere. See
docs/decisions/0193 and 0244.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.core import inference_log, registry, scratch
from components.core.erasure import Ids, read, rows_of
from components.core.errors import DataError, ServiceError, SpecError
from components.core.home import home
from components.core.inference_log.erasure import unsearched
from components.core.pseudonym import Pseudonymiser, load_pseudonymiser
from components.core.storage import Store, open_store
from components.monitor.erasure import erase_labels, erase_memory
from components.register.erasure import drop_incomplete, erase_from_store
from pipelines import erase_record
from pipelines.erase_files import erase_files, erase_partials
from pipelines.erase_plan import KEY, Plan, folder, keys_of, made, match_of, pending, registered
from pipelines.run import records
from serving.pacs.ledger import erase as erase_ledger
from serving.reading.cases import erase as erase_cases

TAG = "erasure."
FITTED = "was fitted on a patient who was erased since; its weights still are"
REMARKS = (
    "copies elsewhere (clusters, backups, older versions of objects in a bucket, the source itself) are not reached",
    "counts of the monitor and published figures stay: they name nobody",
)


def erase(patient: str | None, key: str | None, *, logs: Sequence[Path], state: Path, dry: bool, heads: Path | None = None) -> dict[str, Any]:
    """Erase one patient, after finishing what an earlier call was killed in.

    Args:
        patient: The id as in the hospital; or
        key: The keyed hash that stands for the patient here, 16 hexadecimal characters.
        logs: Folders of inference logs, beside those in DXFLOW_HOME.
        state: The monitor's folder.
        dry: Tell, change nothing.
        heads: Of the audit log; by default DXFLOW_HOME/audit-heads.

    Returns:
        `records` (0 where nothing is held), `dry_run`, `resumed` (earlier erasures that were finished), and for each place what went: `log`,
        `pacs`, `cases`, `labels`, `monitor`, `datasets`, `tables`, `packages` (copies on this machine), `deleted`, `registry`,
        `scratch` (whose it was cannot be told, so it is in no count); `fitted`, `unknown` (versions); `left` (files that hold the patient and are
        not ours to change); `remarks`.

    Raises:
        SpecError: Not an id, or the audit log's heads are elsewhere. ServiceError: A run or another erasure is at work, no pseudonym key, no audit
            key, or store or registry is away.
    """
    if key is not None and not KEY.fullmatch(key):
        raise SpecError("not a keyed hash", where="--key", allowed="16 hexadecimal characters")
    keys, nobody = _hashes(patient, key)
    state = state.absolute()
    heads = heads or home() / "audit-heads"
    own = [folder for folder in (home() / "inference-log", home() / "demo" / "inference-log") if folder.exists()]
    logs = list(dict.fromkeys(path.absolute() for path in (*logs, *own)))
    with _alone():
        if running := [r["run"] for r in records() if r["state"] == "running"]:
            raise ServiceError("a run is under way, erase when it has ended", where=running[0])
        left_over = pending()
        if left_over and not dry:
            erase_record.ready(heads)
        resumed = [] if dry else [_carry_out(plan, heads) for plan in left_over]
        plan = made(keys, logs, state, nobody)
        if key is not None and not _is_somebody(plan, key):
            plan = Plan(Ids(), plan.logs, plan.state)  # a scanner's key, a version: nothing that names a patient, and texts may well hold it
        found = _work(plan, dry=True)
        plan.counts = _counts(found)
        if not dry and found["records"]:
            erase_record.ready(heads)
            plan.save()
            found = _carry_out(plan, heads)
        found["scratch"] = scratch.sweep(dry=dry)
        found |= {"dry_run": dry, "resumed": len(resumed), "pending": len(left_over) if dry else 0, "remarks": list(REMARKS)}
    return found


def _hashes(patient: str | None, key: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """The patient's keys, and hashes that stand for no value at all."""
    configured = os.environ.get("DXFLOW_KEY") or os.environ.get("DXFLOW_KEY_FILE") or (home() / "pseudonym.key").exists()
    if not configured:
        if key is not None:
            return frozenset({key}), frozenset()
        raise ServiceError("no pseudonym key, so nobody's records can be found", where=str(home()), allowed="DXFLOW_HOME, DXFLOW_KEY, or --key")
    pseudonymiser: Pseudonymiser = load_pseudonymiser()[0]
    nobody = frozenset().union(*(pseudonymiser.forms(domain, "") for domain in ("patient", "study", "series")))
    return (keys_of(patient, pseudonymiser) if patient is not None else frozenset({str(key)})), nobody


def _is_somebody(plan: Plan, key: str) -> bool:
    """Whether a key stands in a column that names patients, groups or samples, anywhere."""
    if plan.ids.all - {key} or erase_ledger(home() / "pacs" / "ledger.db", frozenset({key}), frozenset(), dry=True):
        return True
    tables = [
        *home().rglob("*.parquet"),
        *(open_store().open_read(e.key, foreign=True) for e in open_store().list("models/") if _is_reference(e.key)),
    ]
    for table in tables:
        with suppress(DataError):
            if rows_of(read(table), frozenset({key})).any():
                return True
    return False


def _is_reference(key: str) -> bool:
    return key.endswith("/reference.parquet")


@contextmanager
def _alone() -> Iterator[None]:
    home().mkdir(parents=True, exist_ok=True)
    with open(home() / "erase.lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError("another erasure is at work", where=str(home())) from None
        yield


def _carry_out(plan: Plan, heads: Path) -> dict[str, Any]:
    found = _work(plan, dry=False)
    _audit(plan, heads)
    plan.close()
    shutil.rmtree(folder(), ignore_errors=True)  # another plan would have been finished before
    return found


def _work(plan: Plan, *, dry: bool) -> dict[str, Any]:
    """Every place once. What an earlier pass has done is not found again."""
    ids = plan.ids
    store = open_store()
    root = getattr(store, "root", None)
    log = {str(path): inference_log.erase(path, match_of(ids), _texts(ids), dry=dry) for path in map(Path, plan.logs)}
    found: dict[str, Any] = {
        "log": {path: rows for path, rows in log.items() if rows},
        "labels": erase_labels(Path(plan.state), ids, dry=dry),
        "monitor": erase_memory(Path(plan.state), ids, dry=dry),
        "registry": _packages(store, root, plan, dry=dry),
        "pacs": erase_ledger(home() / "pacs" / "ledger.db", ids.keys, ids.studies, dry=dry),
        "cases": erase_cases(home() / "reading", ids.keys, ids.requests, dry=dry),
        **asdict(erase_files(plan, store=root, dry=dry)),
        "fitted": plan.fitted,
        "unknown": plan.unknown,
    }
    found["left"] += [f"{path}/{name} (cannot be read: nobody knows whom it holds)" for path in plan.logs for name in unsearched(path)]
    if not dry:
        for name in plan.fitted:
            model, _, version = name.rpartition(":")
            registry.tag(model, version, {TAG + plan.token: FITTED})
    return found | {"records": sum(_counts(found).values())}


def _packages(store: Store, root: Path | None, plan: Plan, *, dry: bool) -> dict[str, Any]:
    if root is not None and not root.exists():
        return {"packages": [], "incomplete": []}
    own = folder() / "packages"
    shutil.rmtree(own, ignore_errors=True)  # of an erasure that was killed
    try:
        changed = [e.to_dict() for e in erase_from_store(store, registered(), plan.ids, dry=dry, scratch=own)]
        incomplete = drop_incomplete(store, plan.ids, dry=dry) + (erase_partials(root, plan.ids, dry=dry) if root else [])
    finally:
        shutil.rmtree(own, ignore_errors=True)
        if dry and not any(folder().glob("*")):
            shutil.rmtree(folder(), ignore_errors=True)
    return {"packages": changed, "incomplete": incomplete}


def _texts(ids: Ids) -> frozenset[bytes]:
    return frozenset(value.encode() for value in ids.keys | ids.studies)


def _counts(found: dict[str, Any]) -> dict[str, int]:
    """How many records each place holds."""
    packages = found["registry"]["packages"]
    return {
        "log": sum(n for rows in found["log"].values() for n in rows.values()), "labels": sum(found["labels"].values()),
        "monitor": sum(found["monitor"].values()), "pacs": found["pacs"], "cases": found["cases"],
        "datasets": sum(found["datasets"].values()), "tables": sum(found["tables"].values()),
        "packages": sum(found["packages"].values()), "files": len(found["deleted"]) + len(found["registry"]["incomplete"]),
        "registry": sum(n for package in packages for n in package["rows"].values()),
    }  # fmt: skip


def _audit(plan: Plan, heads: Path) -> None:
    erase_record.write(plan.token, {"fitted_models": len(plan.fitted), **plan.counts}, heads)


def text(found: dict[str, Any]) -> str:
    """What people read."""
    verb, lines = "would go" if found["dry_run"] else "went", list[str]()
    if found["resumed"]:
        lines.append(f"finished {found['resumed']} erasure(s) that were cut off")
    if found["pending"]:
        lines.append(f"{found['pending']} erasure(s) were cut off; the next one without --dry-run finishes them first")
    lines.append(f"{found['records']} records {verb}" if found["records"] else "0 records: nothing is held of this patient")
    for path, rows in found["log"].items():
        lines += [f"  inference log  {path}/{name}: {n}" for name, n in rows.items()]
    for place, named in (
        ("labels", "late labels"),
        ("monitor", "monitor"),
        ("datasets", "dataset, whole"),
        ("tables", "table"),
        ("packages", "package"),
    ):
        lines += [f"  {named}  {path}: {n}" for path, n in found[place].items()]
    lines += [f"  PACS loop's ledger: {found['pacs']}"] * (found["pacs"] > 0)
    lines += [f"  cases of the reading page, with their pixels: {found['cases']}"] * (found["cases"] > 0)
    lines += [f"  file, whole  {path}" for path in (*found["deleted"], *found["registry"]["incomplete"])]
    for package in found["registry"]["packages"]:
        rows = ", ".join(f"{name} {n}" for name, n in package["rows"].items())
        now = f"; now {package['uri']}: deploy its inference-service.yaml anew, restart servers" if package["new"] else ""
        lines.append(f"  registry  {', '.join(package['versions']) or package['model']}: {rows}{now}")
    lines += [f"  scratch of killed requests, whoever's: {len(found['scratch'])}"] * bool(found["scratch"])
    lines += [f"  LEFT, not ours to change  {path}" for path in found["left"]]
    lines += [f"{name} {FITTED}: train it anew without the patient" for name in found["fitted"]]
    if found["unknown"]:
        lines.append(f"no dataset is left that could tell whether these were fitted on the patient: {', '.join(found['unknown'])}")
    return "\n".join(lines + [f"note: {remark}" for remark in found["remarks"] if found["records"]])
