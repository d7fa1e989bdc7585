"""What this server offers, as an OpenAPI 3.1 page: written by hand for the paths that the guard lets through, not derived from KServe's.

It is served at /openapi.json where the server listens on a loopback address only: it names the models.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.core.acquisition import PARAMETERS
from serving.handles import MOST, NAMES

PAGE = "/openapi.json"
ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}, "request_id": {"type": ["string", "null"]}}}
REFUSALS = {"400": "the request", "404": "no such model", "413": "too large", "415": "a content type that the model does not take",
            "422": "the request", "429": "busy", "503": "a service is absent"}  # fmt: skip
NUMBER, TEXT = {"type": "number"}, {"type": "string"}
WORD = {"type": "string", "minLength": 1, "maxLength": MOST, "description": "what the hospital calls it; the server hashes it at once"}
HASH = {"type": "string", "pattern": "^[0-9a-f]{16}$", "description": "keyed hash, as ingest makes it of the word"}
SHARE = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
AMOUNT = {"type": "number", "minimum": 0}


def page(offered: Mapping[str, Sequence[str]], version: str) -> bytes:
    """The page.

    Args:
        offered: Content types of files by the name of a model.
    """
    paths: dict[str, Any] = {
        "/v1/models": {"get": _operation("names of the models", {"type": "object"})},
        "/v2/health/live": {"get": _operation("whether the process lives", {"type": "object"})},
        "/v2/health/ready": {"get": _operation("whether all models answer", {"type": "object"})},
        "/v2": {"get": _operation("name and version of the server", {"type": "object"})},
    }
    tensors = {"application/json": {"schema": _tensors()}}
    for name, kinds in sorted(offered.items()):
        content: dict[str, Any] = {"application/json": {"schema": _instances(bool(kinds))}}
        content |= {kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in kinds}
        headers = [
            {"name": f"X-Dxflow-{what}", "in": "header", "required": False, "schema": schema}
            for what, schema in (
                ("Row", NUMBER), ("Column", NUMBER), ("Mpp", NUMBER), ("Window", {"type": "integer", "minimum": 0}),
                *((name.title(), WORD) for name in NAMES), ("Device-Key", HASH),
            )
        ]  # fmt: skip
        paths[f"/v1/models/{name}"] = {"get": _operation("whether the model answers", {"type": "object"})}
        paths[f"/v1/models/{name}:predict"] = {
            "post": _operation("answers to samples, or to one file", _answers(), body={"required": True, "content": content}, parameters=headers)
        }
        paths[f"/v2/models/{name}"] = {"get": _operation("tensors and content types of the model", {"type": "object"})}
        paths[f"/v2/models/{name}/ready"] = {"get": _operation("whether the model answers", {"type": "object"})}
        paths[f"/v2/models/{name}/infer"] = {
            "post": _operation("answers as tensors", {"type": "object"}, body={"required": True, "content": tensors})
        }
    document = {"openapi": "3.1.0", "info": {"title": "dxflow", "version": version, "description": __doc__}, "paths": paths}
    return json.dumps(document, sort_keys=True).encode()


def _operation(summary: str, answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    replies: dict[str, Any] = {"200": {"description": summary, "content": {"application/json": {"schema": answer}}}}
    replies |= {code: {"description": what, "content": {"application/json": {"schema": ERROR}}} for code, what in REFUSALS.items()}
    return {"summary": summary, "responses": replies} | {{"body": "requestBody"}.get(name, name): value for name, value in more.items()}


def _instances(files: bool) -> dict[str, Any]:
    instance: dict[str, Any] = {
        "array": {"type": "array"}, **dict.fromkeys(NAMES, WORD), "device_key": TEXT, "patient_key": TEXT, "software_key": TEXT,
        "acquisition": {"type": "object", "properties": _parameters(), "additionalProperties": False},
    }  # fmt: skip
    if files:
        instance |= {name: TEXT for name in ("file_base64", "dicom_base64", "reference", "content_type")}
        instance |= {"row": NUMBER, "column": NUMBER, "window": {"type": "integer"}, "mpp": NUMBER}
    instances = {"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "object", "properties": instance, "additionalProperties": False}}
    return {"type": "object", "required": ["instances"], "properties": {"instances": instances}}


def _parameters() -> dict[str, Any]:
    """The vocabulary of acquisition parameters."""
    spans = {name: one.possible for name, one in PARAMETERS.items()}
    return {name: TEXT if span is None else NUMBER | {"minimum": span[0], "maximum": span[1]} for name, span in spans.items()}


def _answers() -> dict[str, Any]:
    return {"type": "object", "required": ["predictions"], "properties": {"predictions": {"type": "array", "items": _answer()}}}


def _answer() -> dict[str, Any]:
    """What `serving/predictor.py` says of one sample."""

    def some(properties: dict[str, Any], description: str) -> dict[str, Any]:
        return {"type": ["object", "null"], "properties": properties, "description": description}

    names, count = {"type": "array", "items": TEXT}, {"type": "integer", "minimum": 0}
    observed = some(
        {
            "from": SHARE,
            "to": SHARE,
            "n": count,
            "k": count,
            "groups": count,
            "grouping": TEXT,
            "share": SHARE,
            "low": SHARE,
            "high": SHARE,
            "of": TEXT,
        },
        "of n samples (of so many groups) with a probability from .. to, k were positive: their share and its exact 95 % interval; null: too few",
    )
    uncertainty = {
        "entropy": SHARE, "coverage": SHARE, "set": {"type": ["array", "null"], "items": TEXT, "description": "classes that cannot be ruled out"},
        "observed": observed, "low": SHARE, "high": SHARE,
    }  # fmt: skip
    device = {"key": TEXT, "manufacturer": {"type": ["string", "null"]}, "model": {"type": ["string", "null"]}, "profile": TEXT}
    return {"type": "object", "properties": {
        "request_id": TEXT, "model": TEXT, "version": TEXT, "digest": TEXT, "disease": TEXT, "synthetic": {"type": "boolean"}, "engine": TEXT,
        "probabilities": {"type": "object", "additionalProperties": SHARE}, "decision": {"type": ["string", "null"]},
        "abstain": {"type": "boolean"}, "reasons": names, "operating_point": {"type": "object"},
        "checks": some({"outside": TEXT}, "whether images of something else are told, or why not"),
        "recording": some(
            {"seconds": AMOUNT, "judged_s": AMOUNT, "windows": count, "windows_missing": count,
             "not_judged_s": {"type": "object", "additionalProperties": AMOUNT}}, "how much of its recording windows judge, and why not the rest",
        ),
        "uncertainty": some(uncertainty, "low and high: the interval of observed once more, null where this probability does not lie in it"),
        "positive": some({"classes": names, "name": TEXT}, "what the interval is about"),
        "device": {"type": "object", "properties": {**device, "status": {"enum": ["known", "unseen", "stale", "unknown"]}}},
    }}  # fmt: skip


def _tensors() -> dict[str, Any]:
    tensor = {
        "type": "object", "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": TEXT, "shape": {"type": "array", "items": {"type": "integer"}}, "datatype": {"enum": ["FP32", "BYTES"]},
            "data": {"type": "array"}, "parameters": {"type": "object"},
        },
    }  # fmt: skip
    return {"type": "object", "required": ["inputs"], "properties": {"id": TEXT, "inputs": {"type": "array", "items": tensor, "minItems": 1}}}


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
