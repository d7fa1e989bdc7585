"""What this server offers, as an OpenAPI 3.1 page: written by hand for the paths that the guard lets through, not derived from KServe's.

It is served at /openapi.json where the server listens on a loopback address only: it names the models.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.core.acquisition import PARAMETERS

PAGE = "/openapi.json"
ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}, "request_id": {"type": ["string", "null"]}}}
REFUSALS = {"400": "the request", "404": "no such model", "413": "too large", "415": "a content type that the model does not take",
            "422": "the request", "429": "busy", "503": "a service is absent"}  # fmt: skip
NUMBER, TEXT = {"type": "number"}, {"type": "string"}


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
                ("Row", NUMBER), ("Column", NUMBER), ("Window", {"type": "integer", "minimum": 0}),
                ("Device", {"type": "string", "pattern": "^[0-9a-f]{16}$"}),
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
        "array": {"type": "array"}, "device_key": TEXT, "patient_key": TEXT, "software_key": TEXT,
        "acquisition": {"type": "object", "properties": _parameters(), "additionalProperties": False},
    }  # fmt: skip
    if files:
        instance |= {name: TEXT for name in ("file_base64", "dicom_base64", "reference", "content_type")}
        instance |= {"row": NUMBER, "column": NUMBER, "window": {"type": "integer"}}
    instances = {"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "object", "properties": instance, "additionalProperties": False}}
    return {"type": "object", "required": ["instances"], "properties": {"instances": instances}}


def _parameters() -> dict[str, Any]:
    """The vocabulary of acquisition parameters."""
    spans = {name: one.possible for name, one in PARAMETERS.items()}
    return {name: TEXT if span is None else NUMBER | {"minimum": span[0], "maximum": span[1]} for name, span in spans.items()}


def _answers() -> dict[str, Any]:
    return {"type": "object", "required": ["predictions"], "properties": {"predictions": {"type": "array", "items": {"type": "object"}}}}


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
