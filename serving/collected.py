"""What is kept of an event: figures, and words that the model's package or our vocabulary knows. Everything else becomes a keyed hash or nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from components.core.errors import DataError
from components.core.imaging import vocabulary
from components.core.inference_log.events import REQUEST
from components.core.inference_log.tables import SLIDE
from components.core.outside import ACQUISITION, LOW_QUALITY, OUTSIDE, UNSEEN
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE, Pseudonymiser
from serving.cloud_events import SERVICE, Event
from serving.predictor import CONSTANT, NOT_TOLD, POOLED, STALE_PROFILE, STORE_AWAY, WITHOUT_PROFILE

REASONS = {NOT_TOLD, WITHOUT_PROFILE, STALE_PROFILE, STORE_AWAY, CONSTANT, POOLED + WITHOUT_PROFILE, POOLED + STALE_PROFILE}
KINDS = {OUTSIDE, LOW_QUALITY, ACQUISITION, UNSEEN}
"""Of reasons that go on with figures behind a colon."""
OTHER_REASON, UNREADABLE = "another reason", "the collector could not read the answer"
STATUSES, PROFILES = {"known", "unseen", "stale", UNKNOWN_DEVICE}, {"ok", "missing", "stale", "pooled", "unavailable", "not needed"}
REQUEST_ID = re.compile(r"[0-9a-f]{32}(-[0-9]{1,6})?")
VERSION, DIGEST = re.compile(r"[0-9]{1,9}|[0-9a-f]{12}"), re.compile(r"[0-9a-f]{64}")
DEVICE_KEY, HASHED = re.compile(r"[0-9a-f]{16}"), re.compile(r"other-[0-9a-f]{8}")
MAX_ANSWERS = 256


class Collected:
    """From events of some models to records.

    Args:
        packages: The models whose events are taken. Their classes and names are all that may be kept as text.
    """

    def __init__(self, packages: Iterable[ModelPackage], pseudonymiser: Pseudonymiser) -> None:
        self._pseudonymiser = pseudonymiser
        self._models = {service: package for package in packages for service in (package.disease, package.name.replace("/", "-"))}
        self._classes = {package.name: frozenset(package.spec.target.classes) for package in self._models.values()}
        self._maker = lru_cache(4096)(lambda text: vocabulary.manufacturer(text, pseudonymiser))
        self._model = lru_cache(4096)(lambda text: vocabulary.model(text, pseudonymiser))

    def key(self, event: Event) -> str:
        """The keyed hash by which the halves of a request find each other. Ids are told apart by every byte, their case too."""
        return self._pseudonymiser.id("event", event.source.encode().hex(), event.id.encode().hex())

    def records(self, event: Event, key: str, now: str, where: str = "") -> list[dict[str, Any]]:
        """One record of a request; one for each answer in a response. Raises DataError for a service that is not collected here."""
        package = self._models.get(event.service)
        if package is None:
            raise DataError("another service", where=f"{where}{SERVICE}", allowed=", ".join(sorted(self._models)))
        common = {
            "time": event.time or now, "event": event.kind, "event_id": key, "request_id": key, "source": "cloudevent", "model": package.name,
            "abstain": False,
        }  # fmt: skip
        if event.kind == REQUEST:
            return [common | {"status": "unanswered", "request_bytes": event.size}]
        try:
            answers = [self._answer(answer, package) for answer in _answers(event.body)]
        except (AttributeError, KeyError, TypeError, ValueError):  # another shape somewhere in what the model sent
            answers = []
        if not answers:
            return [common | {"status": "answered", "reasons": [UNREADABLE]}]
        several = len(answers) > 1
        return [common | ({"request_id": f"{key}-{n}"} if several else {}) | answer for n, answer in enumerate(answers)]

    def _answer(self, answer: Mapping[str, Any], package: ModelPackage) -> dict[str, Any]:
        """What is kept of an answer of `serving/predictor.py`. Raises ValueError and others where it is none."""
        classes, scores, decision, abstain = self._classes[package.name], answer["probabilities"], answer["decision"], answer["abstain"]
        device = answer["device"]
        right = (
            answer["model"] == package.name
            and scores.keys() <= classes
            and all(isinstance(p, float | int) and math.isfinite(p) and 0 <= p <= 1 for p in scores.values())
            and (decision is None or decision == "none" or set(decision.split("+")) <= classes or decision in classes)
            and isinstance(abstain, bool)
            and (device["key"] == UNKNOWN_DEVICE or DEVICE_KEY.fullmatch(device["key"]))
        )
        if not right:
            raise ValueError
        record = {
            "status": "abstained" if abstain else "answered", "abstain": abstain, "scores": scores, "decision": decision,
            "reasons": [_reason(r) for r in answer["reasons"]], "device_key": device["key"],
            "manufacturer": _named(device["manufacturer"], self._maker), "device_model": _named(device["model"], self._model),
            "device_status": device["status"] if device["status"] in STATUSES else None,
            "profile": device["profile"] if device["profile"] in PROFILES else None,
        }  # fmt: skip
        part = answer.get("part")
        if isinstance(part, Mapping) and isinstance(part.get("tiles"), int):
            record["source"] = SLIDE
        shaped = {"version": VERSION, "digest": DIGEST, "request_id": REQUEST_ID}
        return record | {name: answer[name] for name, shape in shaped.items() if shape.fullmatch(answer[name])}


def _reason(text: Any) -> str:
    """A reason of the server's own, without its figures; another one's text is not kept."""
    kind = text.partition(":")[0]
    return text if text in REASONS else kind if kind in KINDS else OTHER_REASON


def _answers(body: Any) -> list[Any]:
    """The answers in a response, by either protocol."""
    if "predictions" in body:
        found = body["predictions"]
    else:
        found = [orjson.loads(text) for output in body["outputs"] if output["name"] == "answer" for text in output["data"][: MAX_ANSWERS + 1]]
    if not isinstance(found, list) or len(found) > MAX_ANSWERS:
        raise ValueError
    return found


def _named(text: Any, canonical: Any) -> str | None:
    if not isinstance(text, str) or not text:
        return None
    return text if HASHED.fullmatch(text) else canonical(text[:64])
