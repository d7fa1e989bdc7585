"""What the inference log keeps of a sample: figures and keyed hashes; no pixel, no identifier. One form for every way in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving import covariates
from serving.journal import finite, milliseconds, now
from serving.predictor import Answered, Predictor, Query


def loggable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Of an image's `acq_*` facts those that JSON takes."""
    return {name: v for name, v in facts.items() if isinstance(v, str | int) or (isinstance(v, float) and math.isfinite(v))}


def asked(query: Query) -> dict[str, Any]:
    """What is kept of a sample before anybody looks at it: keyed hashes and acquisition parameters."""
    return {
        "source": query.source, "device_key": query.device_key, "software": query.software,
        "patient": query.patient, "study": query.study, "series": query.series, "acquisition": dict(query.acquisition),
    } | covariates.logged(query.covariates)  # fmt: skip


def answered(time_utc: str, latency_ms: float, query: Query, found: Answered) -> dict[str, Any]:
    """The record of an answer, which carries its `request_id`."""
    answer, embedding = found.answer, found.embedding
    device = answer["device"]
    record = asked(query) | {
        "time": time_utc,
        "request_id": answer["request_id"],
        "status": "abstained" if answer["abstain"] else "answered",
        "model": answer["model"],
        "version": answer["version"],
        "digest": answer["digest"],
        "manufacturer": device["manufacturer"],
        "device_model": device["model"],
        "device_status": device["status"],
        "profile": device["profile"],
        "scores": answer["probabilities"],
        "decision": answer["decision"],
        "abstain": answer["abstain"],
        "reasons": answer["reasons"],
        "image": finite(found.figures),
        "latency_ms": latency_ms,
    }
    if embedding is not None and np.isfinite(embedding).all():
        record["embedding"] = [float(f"{value:.9g}") for value in embedding]  # nine digits give the same float32 back
    return record


def failed(request_id: str, query: Query, predictor: Predictor, started: float) -> dict[str, Any]:
    """The record of a sample that there is no answer for, by a defect: its device is known, and its defect may come from there."""
    package = predictor.package
    return {
        "time": now(), "request_id": request_id, "status": "error", "model": package.name, "version": package.version, "digest": package.digest,
        "abstain": False, "reasons": ["a defect of the server"], "latency_ms": milliseconds(started),
        **asked(query), "manufacturer": query.manufacturer, "device_model": query.device_model,
    }  # fmt: skip
