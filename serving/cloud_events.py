"""KServe's inference logger speaks CloudEvents: one event for a request, one for its response, both with the request's id.

    binary        attributes are headers `ce-*`, the body is what the client or the model sent         what KServe's agent sends
    structured    `application/cloudevents+json`, one JSON object, the body in `data` or `data_base64`
    batch         `application/cloudevents-batch+json`, a list of such objects

Errors name the attribute and never quote a value: ids and bodies may hold patient data.

Source:
    CloudEvents 1.0.2 and its HTTP and JSON bindings; kserve pkg/logger/worker.go and handler.go. The content type of a response event is that of
    the request there, so it tells nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import orjson

from components.core.errors import DataError
from components.core.inference_log.events import REQUEST, RESPONSE

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
TYPES = {"org.kubeflow.serving.inference.request": REQUEST, "org.kubeflow.serving.inference.response": RESPONSE}
SERVICE = "inferenceservicename"
MAX_TEXT = 1024
YEARS = range(1970, 2200)


@dataclass(frozen=True)
class Event:
    """One event as it was sent: nothing of it is safe to keep yet.

    Args:
        id, source: Together they name the request.
        kind: `REQUEST` or `RESPONSE`.
        service: KServe's InferenceService.
        time: ISO 8601, UTC; None where the sender gave none.
        size: Of the body, in bytes; where the body came as JSON inside JSON, of that JSON.
        body: The response's parsed JSON, None where it is no JSON. A request's is never looked at.
    """

    id: str
    source: str
    kind: str
    service: str
    time: str | None
    size: int
    body: Any = None


def is_binary(headers: Mapping[str, str]) -> bool:
    return "ce-specversion" in headers


def is_request(headers: Mapping[str, str]) -> bool:
    """Whether a binary event's body is a request's, so that its size is all that is wanted."""
    return TYPES.get(headers.get("ce-type", "")) == REQUEST


def from_binary(headers: Mapping[str, str], size: int, body: bytes) -> Event:
    """The event of a message in binary mode. Raises DataError.

    Args:
        headers: Names in lower case.
        size: Bytes of the body, also where they were not kept.
    """
    attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    event = _event(attributes, "header ce-", size)
    return _with_body(event, _json(body)) if event.kind == RESPONSE else event


def from_structured(document: Any, where: str = "") -> Event:
    """The event of a JSON object. Raises DataError. `where` goes before the name of the attribute, e.g. `events[3].`."""
    if not isinstance(document, dict):
        raise DataError("not a CloudEvent", where=where.rstrip(".") or "body", allowed="a JSON object")
    if "data_base64" in document:
        try:
            raw = base64.b64decode(document["data_base64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise DataError("not base64", where=f"{where}data_base64") from None
        event = _event(document, where, len(raw))
        return _with_body(event, _json(raw)) if event.kind == RESPONSE else event
    data = document.get("data")
    event = _event(document, where, len(data.encode()) if isinstance(data, str) else 0 if data is None else len(orjson.dumps(data)))
    return _with_body(event, _json(data) if isinstance(data, str) else data) if event.kind == RESPONSE else event


def parsed(text: bytes, where: str = "body") -> Any:
    """JSON. Raises DataError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise DataError("not JSON", where=where) from None


def _event(attributes: Mapping[str, Any], where: str, size: int) -> Event:
    if attributes.get("specversion") != "1.0":
        raise DataError("another version of CloudEvents", where=f"{where}specversion", allowed="1.0")
    kind = TYPES.get(_text(attributes, "type", where))
    if kind is None:
        raise DataError("another type of event", where=f"{where}type", allowed=", ".join(TYPES))
    texts = (_text(attributes, name, where) for name in ("id", "source", SERVICE))
    identity, source, service = texts
    return Event(identity, source, kind, service, _time(attributes.get("time"), f"{where}time"), size)


def _with_body(event: Event, body: Any) -> Event:
    return Event(event.id, event.source, event.kind, event.service, event.time, event.size, body)


def _text(attributes: Mapping[str, Any], name: str, where: str) -> str:
    value = attributes.get(name)
    if not isinstance(value, str) or not value:
        raise DataError("missing", where=f"{where}{name}", allowed="a text")
    if len(value) > MAX_TEXT:
        raise DataError("too long", where=f"{where}{name}", got=f"{len(value)} characters", allowed=f"at most {MAX_TEXT}")
    return value


def _time(value: Any, where: str) -> str | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
        found = found.astimezone(UTC) if found.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or found.year not in YEARS:
        raise DataError("not a time", where=where, allowed="RFC 3339 with a zone")
    return found.isoformat(timespec="microseconds")


def _json(text: str | bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
