"""One look at a whole inference log, device by device: what the scheduled monitor would say if all of it were one window.

The same reference, strata, tests, level and sentences as `watch.py`; only that a change need not come back, because there is nothing to come back in.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.atomic import atomic_dir
from components.core.figure_words import Words
from components.core.inference_log import read_log
from components.core.inference_log.tables import STRANGE
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE
from components.monitor import answer_events, unknown_devices, window_page
from components.monitor.detect import Detector, Judged
from components.monitor.sketch import Sketch, hashes
from components.monitor.telling import Teller
from components.monitor.unknown_devices import OTHERS
from components.monitor.watched import NO_SLIDES, Watched, devices, patients

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 2
SILENT_LEVEL = 0.01
"""A device is reported missing when, by its share of the reference, so empty a log had at most this probability."""


def drift(*, package: Path, log: Path, out: Path) -> dict[str, Any]:
    """Compare an inference log with a model package's reference and write the findings.

    Args:
        package: A model package folder. Every hash in it is verified first.
        log: The folder that the server writes, `components/core/inference_log`. Records of other models in it are left alone.
        out: Replaced by `drift.json`, `drift.html` and, if a device has enough answers to be judged, `evidently.html`.

    Returns:
        The contents of drift.json: `devices` {device_key: facts}, `unseen` and `silent` (names of devices), `alarms` [{kind, device, text}].

    Raises:
        DataError: Not a package, or not a log.
    """
    model = ModelPackage.open(package, allow_synthetic=True)  # looking at a model's data is not using it
    watched = Watched.of(model)
    everything = read_log(log)
    mine = everything[(everything["model"] == model.name) & everything["status"].isin(("answered", "abstained"))]
    current = mine[mine["digest"].isin(model.digests).to_numpy()].reset_index(drop=True)
    key, rest = _together(watched, devices(current))
    current = current.assign(device_key=key)
    events = answer_events.of(watched, current, ())
    columns = answer_events.features(events)
    teller, window = Teller(watched, {}, {}), _window(watched, current, columns)
    for device, rows in events.groupby("device"):
        if device != OTHERS:
            teller.remember(str(device), rows)
    judged = Detector(watched.reference).look(window)
    for device in watched.blind(current):
        if not judged[device].reason:
            judged[device].unjudged = NO_SLIDES
    found = _found(watched, teller, judged, current, unknown_devices.told(*rest))
    strange = int(current[STRANGE].sum()) if STRANGE in current else 0
    found["window"] |= {"damaged": int(everything.attrs["damaged"]), "other_version": len(mine) - len(current), "strange_names": strange}
    found["window"] |= {"lost": int(everything.attrs["lost"]), "unverified": len(everything.attrs["unverified"])}
    found["window"]["together"] = {"devices": rest[0], "answers": rest[1]}
    found["alarms"] += [{"kind": "log_loss", "device": "", "text": text} for text in everything.attrs["told"]]
    with atomic_dir(out) as folder:
        (folder / "drift.json").write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
        at = current["time"].max().to_pydatetime() if len(current) else datetime.fromtimestamp(0, UTC)
        evidently = False
        if any(not result.reason for result in judged.values()):  # importing Evidently takes seconds: only when there is something to show
            from components.monitor import evidently_report

            labels = {device: facts["label"] for device, facts in found["devices"].items()}
            sides = (watched.reference_columns(), model.reference["device_key"].astype(str).tolist()), (columns, key)
            evidently = evidently_report.save(folder / "evidently.html", *sides, judged, labels, synthetic=model.synthetic, at=at)
        _page(folder / "drift.html", found, watched, judged, window, evidently=evidently)
    return found


def _together(watched: Watched, key: list[str]) -> tuple[list[str], tuple[int, int]]:
    """Device keys with one for all unknown devices that do not stand for themselves, and how many these are and their answers."""
    answers = Counter(device for device in key if device not in watched.reference.shares and device != UNKNOWN_DEVICE)
    rest = set(answers) - unknown_devices.apart(answers)
    return [OTHERS if device in rest else device for device in key], (len(rest), sum(answers[device] for device in rest))


def _window(watched: Watched, current: pd.DataFrame, columns: Mapping[str, Any]) -> dict[str, Sketch]:
    """Device -> its answers, counted."""
    import numpy as np

    reference, strata, who = watched.reference, watched.mix.strata(current), hashes(patients(current))
    key = current["device_key"].to_numpy(str)
    window: dict[str, Sketch] = {}
    for device in np.unique(key).tolist():
        rows = np.flatnonzero(key == device)
        window[device] = Sketch.empty(len(reference.strata), len(reference.features))
        part = {name: values[rows] for name, values in columns.items()}
        window[device].add(reference.baseline(device)[0].places, part, who[rows], strata[rows])
    return window


def _found(watched: Watched, teller: Teller, judged: Mapping[str, Judged], current: pd.DataFrame, others: str) -> dict[str, Any]:
    model, reference = watched.model, watched.reference
    found: dict[str, dict[str, Any]] = {}
    alarms: list[dict[str, str]] = []
    abstained = current.groupby("device_key")["abstain"].sum()
    for device, result in judged.items():
        share, label = reference.shares.get(device, 0.0), teller.label(device)
        maker, name = teller.names.get(device, [None, None])
        said = teller.all(device, result)
        found[device] = {
            "label": label, "manufacturer": maker, "model": name, "status": result.status, "against": result.against, "n": result.n,
            "patients": result.patients, "verdict": result.verdict, "reason": result.why, "words": said,
            "told": teller.sentences(device, result),
            "abstained": int(abstained.get(device, 0)), "expected": share * len(current),
            "changes": {c.name: _plain(asdict(c)) | {"alarm": c in result.alarm} for c in result.compared},
        }  # fmt: skip
        if result.status == "unseen":
            text = f"Unseen device {label.removeprefix('device ')}: {result.n} answer{'s' if result.n != 1 else ''}"
            text = f"Unseen devices: {others}" if device == OTHERS else text
            text += f"; unlike the reference: {said}" if result.alarm else f"; cannot judge: {result.why}" if result.why else ""
            alarms.append({"kind": "unseen", "device": device, "text": text})
        elif result.alarm:
            alarms.append({"kind": "drift", "device": device, "text": f"Drift on {label}: {said} (n={result.n})"})
        elif result.status == "silent" and len(current) and (1 - share) ** len(current) <= SILENT_LEVEL:
            text = f"Silent: no answer from {label}, about {share * len(current):.0f} expected by its share of the reference"
            alarms.append({"kind": "silent", "device": device, "text": text})
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model.name,
        "version": model.version,
        "digest": model.digest,
        "disease": model.spec.name,
        "synthetic": model.synthetic,
        "unit": model.spec.input.unit,
        "reference_n": len(model.reference),
        "reference_devices": len(reference.shares),
        "strata": list(watched.mix.names),
        "window": {
            "n": len(current),
            "from": _minute(current["time"].min()) if len(current) else None,
            "to": _minute(current["time"].max()) if len(current) else None,
        },
        "devices": found,
        "unseen": [found[device]["label"] for device, result in judged.items() if result.status == "unseen"],
        "silent": [found[device]["label"] for device, result in judged.items() if result.status == "silent"],
        "alarms": sorted(alarms, key=lambda a: ("unseen", "drift", "silent").index(a["kind"])),
    }


def _page(
    path: Path, found: Mapping[str, Any], watched: Watched, judged: Mapping[str, Judged], window: Mapping[str, Sketch], *, evidently: bool
) -> None:
    model, reference, seen = watched.model, watched.reference, found["window"]
    facts = {"title": f"Drift by device: {model.spec.title}", "model": model.name, "version": model.version, "digest": model.digest}
    facts |= {"synthetic": model.synthetic, "start": seen["from"], "end": seen["to"], "look": True, "n": seen["n"]}
    notes = []
    if seen["unverified"]:
        notes.append(f"{seen['unverified']} segments of the log have no digest yet: an older version wrote them.")
    if seen["other_version"]:
        notes.append(f"{seen['other_version']} answers of another version of the model left out.")
    if strange := seen["strange_names"]:
        notes.append(f"{strange:,} acquisition parameters with names that nobody knows left out.")
    parts = [
        window_page.DevicePart(
            {"device_key": device, **found["devices"][device]},
            result.alarm,
            reference.baseline(device)[0],
            window.get(device),
            reference.sizes.get(device, 0),
            found["devices"][device]["told"],
        )
        for device, result in judged.items()
    ]
    alarms = [{"kind": a["kind"], "label": "", "evidence": a["text"], "since": ""} for a in found["alarms"]]
    window_page.write(path, facts, parts, alarms, of=Words.of(model.spec.input), notes=notes, evidently=evidently)


def _plain(value: Any) -> Any:
    """For JSON, which has no infinity: an open end is null."""
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _minute(time: Any) -> str:
    import pandas as pd

    return "unknown" if pd.isna(time) else time.strftime("%Y-%m-%d %H:%M")
