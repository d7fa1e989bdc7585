"""A home with one patient everywhere: dataset, unfinished ingest, predictions, pages, package, registry, store, log, labels, monitor, reading page;
and an audit log, which names the answers and no patient.

Everything but the patients' ids, which are keyed hashes as ingest makes them, is what the real steps write.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.core.inference_log import InferenceLog, compact
from components.core.package import ModelPackage
from components.core.pseudonym import Pseudonymiser, load_pseudonymiser
from components.evaluate.step import evaluate
from components.ingest.journal import Journal, Outcome
from components.monitor.labelled import take
from components.monitor.sketch import hashes
from components.monitor.watch import watch
from components.register.step import register
from feature_store.views import write_view
from serving.access.audit import Audit, signing_key
from serving.predictor import Query
from serving.reading.cases import CaseStore
from tests.small_run import DEVICES, example

NUMBER, OTHER = 5, 6
"""Of `small_run`'s patients: both are validation, so they are in the drift reference and the model was chosen with them."""
IDS = {NUMBER: "HOSP 4711-Q", OTHER: "HOSP 4712-R"}
SITES = {NUMBER: "palms/soles", OTHER: "back"}
"""Covariates: a word that stands nowhere else."""
KEY = b"2123456789abcdef0123456789abcdef"  # fixed, since it decides which samples are among the simulated ones
AT = datetime(2026, 3, 2, 8, tzinfo=UTC)


@dataclass
class Home:
    """What was built, and what nobody must find after an erasure.

    Args:
        needles: name -> bytes that stand for the patient.
    """

    root: Path
    needles: dict[str, bytes]
    registration: dict[str, Any]
    key: str
    model: str = "lung-nodule"


def build(root: Path) -> Home:
    """Fill `root`, which is DXFLOW_HOME. Two patients have every kind of record; the first one is to be erased."""
    spec, made = example("real")
    root.mkdir(exist_ok=True)
    (root / "pseudonym.key").write_bytes(KEY)
    pseudonymiser, _ = load_pseudonymiser()
    steps = root / "pipeline_root" / "lung-nodule-1"
    run = {name: steps / name / name for name in made}
    for name, folder in made.items():
        shutil.copytree(folder, run[name])
    renamed(run["dataset"] / "manifest.parquet", pseudonymiser)
    people = [{"patient_id": pseudonymiser.id("patient", IDS[n]), "age_years": 60.0, "body_site": SITES[n]} for n in IDS]
    write_view(run["features"], "covariates", people)
    evaluation, package = steps / "evaluate" / "evaluation", steps / "register" / "package"
    evaluate(spec, **run, out=evaluation)
    registration = register(spec, **run, evaluation=evaluation, package=package)
    kept = root / "runs" / "20260302-080000-lung-nodule"
    kept.mkdir(parents=True)
    for name in ("report.html", "predictions.parquet", "metrics.json"):
        shutil.copyfile(evaluation / name, kept / name)
    outputs = {"dataset": str(run["dataset"]), "package": str(package), "evaluation": str(evaluation)}
    (kept / "outputs.json").write_text(json.dumps(outputs))
    (kept / "run.json").write_text(json.dumps({"run": kept.name, "state": "succeeded", "pid": 1}))
    from pipelines.models import fetch

    fetch("lung-nodule@champion", allow_synthetic=False)
    manifest = pq.read_table(run["dataset"] / "manifest.parquet").to_pandas()
    key = pseudonymiser.id("patient", IDS[NUMBER])
    own = manifest[manifest["patient_id"] == key]
    unfinished(root / "work" / "ingest-0123456789", own.iloc[0].to_dict(), key)
    model = ModelPackage.open(package)
    log(root / "inference-log", model, pseudonymiser)
    labels = root / "labels.csv"
    labels.write_text("sample,label,at\n" + "".join(f"request{n}-0,benign,{(AT + timedelta(days=1)).isoformat()}\n" for n in IDS))
    take(package=package, log=root / "inference-log", state=root / "monitor", file=labels, now=AT + timedelta(days=2))
    labels.unlink()  # the hospital's own file
    watch(package=package, log=root / "inference-log", state=root / "monitor", now=AT + timedelta(hours=2))
    audited(root, ended=True)
    audited(root, ended=False)
    cases(root / "reading", model, pseudonymiser)
    pixels = np.load(sorted((run["dataset"] / "shards").glob("*.npy"))[0])[own["offset"].iloc[0]].tobytes()
    needles = {
        "id": IDS[NUMBER].encode(), "patient key": key.encode(), "study": pseudonymiser.id("study", f"st{NUMBER}").encode(),
        "series": own["series_id"].iloc[0].encode(), "sample": own["sample_id"].iloc[0].encode(), "request": f"request{NUMBER}-0".encode(),
        "event": f"event{NUMBER}".encode(), "pixels": pixels, "monitor's hash": hashes([key]).tobytes(),
        "covariate": SITES[NUMBER].encode(),
    }  # fmt: skip
    return Home(root, needles, registration, key)


def audited(root: Path, *, ended: bool) -> None:
    """Who asked about whom; without an end, as a kill leaves it."""
    audit = Audit(root / "audit", root / "audit-heads", signing_key())
    for n in range(20):
        audit.append("predict", who="ward-7", model="lung-nodule", status=200, request_id=f"request{n}-0")
    if ended:
        audit.close()


def cases(folder: Path, model: ModelPackage, pseudonymiser: Pseudonymiser) -> None:
    """What the reading page keeps: a case of each of the two."""
    store = CaseStore(folder)
    for n, record in enumerate(records(model, pseudonymiser)):
        if n in IDS:
            query = Query(array=np.full((1, 8, 8), n, np.float32), patient=record["patient"], study=record["study"])
            answer = {"disease": "lung-nodule", "abstain": True, "reasons": [], "probabilities": {}, "decision": None, "synthetic": False}
            store.add(query, answer | {"request_id": record["request_id"], "digest": model.digest}, ["malignant"], datetime.now(UTC))
    store.close()


def renamed(manifest: Path, pseudonymiser: Pseudonymiser) -> None:
    """The phantom's ids as ingest would have made them."""
    table = pq.read_table(manifest)
    for name, domain in (("patient_id", "patient"), ("group_id", "patient"), ("series_id", "series"), ("sample_id", "sample")):
        values = [pseudonymiser.id(domain, IDS.get(int(v[1:5]), v) if domain == "patient" else v) for v in map(str, table[name].to_pylist())]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(table, manifest)


def unfinished(folder: Path, row: dict[str, Any], key: str) -> None:
    folder.mkdir(parents=True)
    journal = Journal(folder)
    journal.record("t", Outcome(samples=[{"sample_id": row["sample_id"], "patient_id": key}], words={(key, 9)}))
    journal.close()


def records(model: ModelPackage, pseudonymiser: Pseudonymiser) -> Iterator[dict[str, Any]]:
    """An answer about each of 20 patients, in one study each."""
    device = next(iter(DEVICES))
    for n in range(20):
        person = IDS.get(n, f"p{n:04d}")
        yield {
            "time": (AT + timedelta(minutes=n)).isoformat(), "request_id": f"request{n}-0", "status": "answered", "model": model.name,
            "version": model.version, "digest": model.digest, "source": "dicom", "device_key": device, "decision": "benign", "abstain": False,
            "patient": pseudonymiser.id("patient", person), "study": pseudonymiser.id("study", f"st{n}"),
            "series": pseudonymiser.id("series", f"x{n:04d}"), "reasons": [], "scores": {"benign": 0.9, "malignant": 0.1}, "latency_ms": 4.0,
            "image": {"mean": -500.0 + n}, "embedding": [float(n), 1.0],
            "covariates": {"cov_age_years": 60.0, "cov_body_site": SITES.get(n, "back")},
        }  # fmt: skip


def log(folder: Path, model: ModelPackage, pseudonymiser: Pseudonymiser) -> None:
    """One compacted segment and one that is not; a collector saw the requests too."""
    rows = list(records(model, pseudonymiser))
    with InferenceLog(folder) as writer:
        writer.append(rows[:10])
    compact(folder)
    seen = [
        {"time": r["time"], "event": kind, "event_id": f"event{n}", "request_id": r["request_id"] if kind == "response" else f"event{n}"}
        | {"source": "cloudevent", "model": model.name, "digest": model.digest, "status": "answered", "abstain": False}
        for n, r in enumerate(rows)
        for kind in ("request", "response")
    ]
    with InferenceLog(folder) as writer:
        writer.append([*rows[10:], *({**r, "request_id": f"again{n}-0", "patient": r["patient"]} for n, r in enumerate(rows[:8])), *seen])


def found_in(root: Path, needle: bytes) -> list[str]:
    """Files under `root` that hold the bytes, or the text in a column of theirs, or bear it in their name."""
    return [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if needle in path.name.encode() or (path.is_file() and _in(path, needle))]


def _in(path: Path, needle: bytes) -> bool:
    if needle in (data := path.read_bytes()):
        return True
    if not data.startswith(b"PAR1"):
        return False
    table = pq.read_table(path)
    text = [str(table.schema.metadata).encode(), *(str(column.to_pylist()).encode() for column in table.columns)]
    return any(needle in part for part in text)
