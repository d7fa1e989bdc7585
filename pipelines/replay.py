"""Ask a server about a whole folder in the disease's own format, and keep every answer.

Samples are those that ingest finds, prepared as for training and sent as arrays, so any reader's format can be answered, and the inference log fills
as a site would fill it: with keyed hashes of device and patient, the acquisition's figures, and the covariates that the spec names. A recording goes
as one file, as a site sends it, so that its windows stay together and those that cannot be used are answered with the reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from components.core import scratch
from components.core.acquisition import possible
from components.core.dataset import Dataset
from components.core.errors import DataError, SpecError
from components.core.imaging.deidentify import device_identity
from components.core.package import SYNTHETIC
from components.core.pseudonym import UNKNOWN_DEVICE, load_pseudonymiser
from components.core.spec import DiseaseSpec
from components.ingest.source import open_source
from components.ingest.step import ingest
from feature_store.covariates import told
from pipelines import answer_rows, catalog
from pipelines.quarantine import resolved
from pipelines.sample_files import files_of, fitting
from serving import client
from serving.handles import HEADERS, KEY_HEADER, quoted

JSON = {"Content-Type": "application/json"}
VALUES = 200_000
"""Numbers in one request: about 2 MB of JSON."""


def replay(url: str, model: str, source: Path, timeout_s: float, *, disease: str | None = None, device: str | None = None) -> dict[str, Any]:
    """Answers about every sample.

    Args:
        model: A disease of the catalogue; `synthetic/<disease>` is taken too.
        source: As `dxflow run --source`. Labels in it are not sent.
        disease: As `dxflow run` takes it, where the catalogue does not know the model by its name.
        device: What the hospital calls the device of what names none.

    Returns:
        `rows`, one an answer or for what ingest or server refused (`answer_rows.py`); counts of them: `samples`, `decisions` {class: n}, `abstained`,
        `refused`, `reasons` {reason: n}, `devices` {device_key: n}; `recordings`, one each (file, windows, decisions, abstained); `model`,
        `version`, `synthetic`, and `positive` as the answers have it.

    Raises:
        DataError: The source, or the server refuses every sample. SpecError: No such disease or model. ServiceError: No server, or it fails.
    """
    name = disease or model.removeprefix(SYNTHETIC)
    if disease is None and name not in catalog.names():
        allowed = f"--disease path/{name}.toml, or one of: {', '.join(catalog.names())}"
        raise SpecError("the catalogue does not say how its folders are read", where="--model", got=f"'{name}'", allowed=allowed)
    spec = catalog.load(name)
    client.served(url, model, timeout_s)
    try:
        fitting(spec, source)
        answered = list(
            _recordings(url, model, source, spec, timeout_s, device) if _whole(spec) else _samples(url, model, source, spec, timeout_s, device)
        )
    except DataError as error:
        where = error.where.replace("--source", "FILE") if error.where else None  # as `dxflow run` calls it
        raise DataError(error.what, where=where, got=error.got, allowed=error.allowed) from None
    return _summed(answered)


Answered = tuple[dict[str, Any], dict[str, Any] | None]
"""A row, and the answer that it was made of; None where there is none."""


def _whole(spec: DiseaseSpec) -> bool:
    """Whether a recording's file alone tells the server what ingest would have known of the device: not where its name adds to what its head says."""
    if spec.input.reader != "sensor-csv" or spec.recording is None:
        return False
    named = {name in re.compile(spec.recording.file).groupindex for name in spec.device.key}
    return len(named) == 1


def _recordings(url: str, model: str, source: Path, spec: DiseaseSpec, timeout_s: float, device: str | None) -> Iterator[Answered]:
    assert spec.recording is not None
    listed, pseudonymiser, count, last = open_source(str(source)), load_pseudonymiser()[0], 0, ""
    for item in listed.items:
        matched = re.fullmatch(spec.recording.file, item.path.rsplit("/", 1)[-1])
        if matched is None:
            continue
        count += 1
        named = {name: text for name, text in matched.groupdict().items() if text}
        headers = {HEADERS["patient"]: quoted(named["subject"], item.path)} if "subject" in named else {}
        key = device_identity(pseudonymiser, key=tuple(named.get(name, "") for name in spec.device.key)).key
        if key != UNKNOWN_DEVICE:
            headers[KEY_HEADER] = key
        elif device is not None:
            headers[HEADERS["device"]] = quoted(device, "--device")
        try:
            answers = client.predict(url, model, Path(listed.root) / item.path, timeout_s=timeout_s, headers=headers)
        except DataError as error:  # one recording that nobody can read loses no other
            last = str(error)
            yield answer_rows.refused(last, file=item.path), None
            continue
        for answer in answers:
            sample = pseudonymiser.id("sample", item.path, str(answer["part"]["window"]))  # as ingest calls the window
            yield answer_rows.row(answer, sample=sample, file=item.path), answer
    if not count:
        raise DataError("no recording", where="FILE", got=f"{len(listed.items)} files", allowed=f"names as recording.file: {spec.recording.file}")


def _samples(url: str, model: str, source: Path, spec: DiseaseSpec, timeout_s: float, device: str | None) -> Iterator[Answered]:
    with scratch.room("replay") as room:
        with redirect_stdout(StringIO()):  # the step's events
            ingest(spec, str(source), dataset=room / "dataset", features=room / "features")
            data = Dataset(room / "dataset", expect=spec)
            file_of = files_of(spec, source, data.manifest, load_pseudonymiser()[0])
        rows = data.manifest.to_dict("records")
        known = told(room / "features", data.manifest, spec.covariates)
        at_once = max(1, min(64, VALUES // int(np.prod(spec.input.shape))))
        for start in range(0, len(rows), at_once):
            chosen = np.arange(start, min(start + at_once, len(rows)))
            arrays = data.read(chosen).astype(np.float64)
            instances = [_instance(x, rows[n], known[n], device) for x, n in zip(arrays, chosen.tolist(), strict=True)]
            for n, answer in zip(chosen.tolist(), _asked(url, model, instances, timeout_s), strict=True):
                sample = str(rows[n]["sample_id"])
                if isinstance(answer, client.Refused):
                    yield answer_rows.refused(str(answer), sample=sample, file=file_of.get(sample)), None
                else:
                    yield answer_rows.row(answer, sample=sample, file=file_of.get(sample)), answer
        for one in resolved(str(source), room / "dataset"):
            if not one["skipped"]:
                line = one["offset"] if one["file"].lower().endswith((".csv", ".tsv")) else None
                yield answer_rows.refused(one["reason"], file=one["file"] + (f":{line}" if line is not None else "")), None


def _asked(url: str, model: str, instances: list[dict[str, Any]], timeout_s: float) -> list[dict[str, Any] | client.Refused]:
    """An answer, or why there is none, for each: one sample that the server does not take loses no other. Errors as `client.ask`."""
    try:
        return list(client.ask(url, model, json.dumps({"instances": instances}).encode(), client.JSON, timeout_s))
    except client.Refused as error:
        if len(instances) == 1:
            return [error]
    half = len(instances) // 2
    return _asked(url, model, instances[:half], timeout_s) + _asked(url, model, instances[half:], timeout_s)


def _summed(answered: list[Answered]) -> dict[str, Any]:
    rows, answers = [row for row, _ in answered], [answer for _, answer in answered if answer is not None]
    if not answers:
        raise DataError("the server answered nothing", where="FILE", got=rows[0]["reasons"][0] if rows else "no samples")
    last = answers[-1]
    reasons = Counter(reason for row in rows for reason in row["reasons"] if row["abstain"])
    recordings: dict[str, dict[str, Any]] = {}
    for row, answer in answered:
        if answer is None or "window" not in (answer.get("part") or {}):
            continue
        one = recordings.setdefault(row["file"], {"file": row["file"], "windows": 0, "decisions": Counter[str](), "abstained": 0})
        one["windows"] += 1
        one["abstained"] += row["abstain"]
        one["decisions"].update([] if row["abstain"] else [str(row["decision"])])
    return {
        "samples": len(rows), "decisions": dict(Counter(str(a["decision"]) for a in answers if not a["abstain"]).most_common()),
        "abstained": sum(a["abstain"] for a in answers), "refused": len(rows) - len(answers), "reasons": dict(reasons.most_common()),
        "devices": dict(Counter(a["device"]["key"] for a in answers).most_common()),
        "recordings": [one | {"decisions": dict(one["decisions"].most_common())} for one in recordings.values()],
        "model": last["model"], "version": last["version"], "synthetic": last["synthetic"], "positive": last.get("positive"), "rows": rows,
    }  # fmt: skip


def _instance(x: np.ndarray, row: Mapping[Any, Any], covariates: Mapping[str, Any], device: str | None = None) -> dict[str, Any]:
    known = {"device_key": row["device_key"], "patient_key": row.get("patient_id"), "software_key": row.get("software")}
    known |= {"manufacturer": row.get("manufacturer"), "device_model": row.get("model")}
    out: dict[str, Any] = {"array": x.tolist()} | ({"covariates": covariates} if covariates else {})
    out |= {name: value for name, value in known.items() if isinstance(value, str) and value and value != UNKNOWN_DEVICE}
    if device is not None and "device_key" not in out:
        out["device"] = device
    figures = {name: value for name, value in row.items() if name.startswith("acq_")}
    told: dict[str, Any] = {k: float(v) for k, v in figures.items() if possible(k, v)}  # a header may declare what cannot be
    told |= {k: v for k, v in figures.items() if isinstance(v, str) and v}
    return out | ({"acquisition": told} if told else {})
