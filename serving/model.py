"""The KServe face of a predictor: protocols v1 and v2 in, the inference log, protocols out.

    v1   POST /v1/models/<disease>:predict   application/json {"instances": [...]}, or one file: the content types that the model's metadata lists
    v2   POST /v2/models/<disease>/infer     one tensor, as JSON or binary: FP32 [n, *input.shape], or BYTES [n], one file an element

All work on a request runs on one thread that is not the event loop's, so a health probe never waits for a model.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import kserve
import numpy as np
import orjson
from kserve.errors import InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import InferInput, InferOutput, InferRequest, InferResponse
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.pseudonym import Pseudonymiser
from serving import bodies, queries
from serving.journal import Journal, finite, milliseconds, now
from serving.predictor import Predictor, Query
from serving.references import Allowed, References

T = TypeVar("T")


class UnsupportedType(InvalidInput):
    """A content type that the server, or this model, does not take: 415."""

    status = 415


@dataclass(frozen=True)
class Work:
    """A request between KServe's stages. `reply_to` is the v2 request; None means protocol v1."""

    queries: list[Query]
    request_id: str
    started: float
    reply_to: InferRequest | None


class DiseaseModel(kserve.Model):
    """One disease at the server, named by its disease. `ready` from the start: a model that does not load never gets here."""

    def __init__(
        self, predictor: Predictor, pseudonymiser: Pseudonymiser, journal: Journal, executor: Executor, references: References | None = None
    ) -> None:
        super().__init__(predictor.package.disease)
        self._references = references or References(Allowed.from_environment())
        self._predictor, self._pseudonymiser, self._journal, self._executor = predictor, pseudonymiser, journal, executor
        bodies.warm(predictor.spec)
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """The tensors that protocol v2 takes: numbers, or files, whose tensors are named by content type; v1 takes those as raw bodies too."""
        spec = self._predictor.spec
        numbers = {"name": "x", "datatype": "FP32", "shape": [-1, *spec.input.shape]}
        return [numbers, *({"name": kind, "datatype": "BYTES", "shape": [-1]} for kind in bodies.offered(spec))]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, self._predictor.spec.n_scores]},
            {"name": "decision", "datatype": "BYTES", "shape": [-1]},
            {"name": "abstain", "datatype": "BOOL", "shape": [-1]},
            {"name": "answer", "datatype": "BYTES", "shape": [-1]},
        ]

    async def preprocess(self, payload: Any, headers: dict[str, str] | None = None) -> Work:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Decode. Raises InvalidInput naming the field."""
        started = time.perf_counter()
        known = headers or {}
        try:
            async with self._references.fetched(payload) as files:
                found = await self._aside(lambda: self._decode(payload, known, files))
        except DataError as error:
            raise InvalidInput(str(error)) from None
        return Work(found, known.get("x-request-id", ""), started, payload if isinstance(payload, InferRequest) else None)

    def _decode(self, payload: Any, headers: Mapping[str, str], fetched: Mapping[int, Path]) -> list[Query]:
        spec = self._predictor.spec
        try:
            if isinstance(payload, bytes):
                return queries.from_raw(payload, headers, spec, self._pseudonymiser)
            if not isinstance(payload, InferRequest):
                return queries.from_document(payload, spec, self._pseudonymiser, fetched)
            if len(payload.inputs) != 1:
                raise DataError("another number of tensors", where="inputs", got=len(payload.inputs), allowed=1)
            tensor = payload.inputs[0]
            named = {"content_type": tensor.name} if tensor.name in bodies.known() else {}
            parameters = {**named, **(tensor.parameters or {}), **(payload.parameters or {})}
            return queries.from_tensor(tensor.shape, tensor.datatype, tensor.data, tensor._raw_data, parameters, spec, self._pseudonymiser)
        except bodies.NotTaken as error:
            raise UnsupportedType(str(error)) from None
        except DataError as error:
            raise InvalidInput(str(error)) from None

    async def predict(self, payload: Work, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Answer and log; the answers leave when all of them are in the log, or are counted because no disk takes them."""
        return await self._aside(lambda: self._answer(payload))

    def _answer(self, work: Work) -> Any:
        ids = [f"{work.request_id}-{n}" if len(work.queries) > 1 else work.request_id for n in range(len(work.queries))]
        try:
            answers, embeddings = self._predictor.answer_and_embed(work.queries)
            figures = self._predictor.figures(work.queries)
        except Exception:
            self._journal.write(work.request_id, [self._failed(i, query, work.started) for i, query in zip(ids, work.queries, strict=True)])
            raise
        for answer, own in zip(answers, ids, strict=True):
            answer["request_id"] = own
        at, latency = now(), milliseconds(work.started)
        records = [_record(at, latency, *parts) for parts in zip(work.queries, answers, figures, embeddings, strict=True)]
        self._journal.write(work.request_id, records)
        return {"predictions": answers} if work.reply_to is None else self._reply(work.reply_to, answers)

    def _failed(self, request_id: str, query: Query, started: float) -> dict[str, Any]:
        """The record of a sample that the server has no answer for, by a defect: its device is known, and its defect may come from there."""
        package = self._predictor.package
        return {
            "time": now(), "request_id": request_id, "status": "error", "model": package.name, "version": package.version, "digest": package.digest,
            "abstain": False, "reasons": ["a defect of the server"], "latency_ms": milliseconds(started),
            **_asked(query), "manufacturer": query.manufacturer, "device_model": query.device_model,
        }  # fmt: skip

    def _reply(self, request: InferRequest, answers: list[dict[str, Any]]) -> InferResponse:
        """The answers as v2 tensors. Where the model was not asked, probabilities are null (JSON has no NaN) and the decision is ""."""
        classes = self._predictor.spec.target.classes
        n = len(answers)
        columns = {
            "probabilities": ("FP32", [n, len(classes)], [a["probabilities"].get(c) for a in answers for c in classes]),
            "decision": ("BYTES", [n], [a["decision"] or "" for a in answers]),
            "abstain": ("BOOL", [n], [a["abstain"] for a in answers]),
            "answer": ("BYTES", [n], [json.dumps(a) for a in answers]),
        }
        outputs = [InferOutput(name=name, shape=shape, datatype=kind, data=data) for name, (kind, shape, data) in columns.items()]
        return InferResponse(response_id=request.id or answers[0]["request_id"], model_name=self.name, infer_outputs=outputs)

    async def _aside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _asked(query: Query) -> dict[str, Any]:
    """What is kept of a sample before anybody looks at it: keyed hashes and acquisition parameters; no pixel, no identifier."""
    return {
        "source": query.source, "device_key": query.device_key, "software": query.software,
        "patient": query.patient, "study": query.study, "series": query.series, "acquisition": dict(query.acquisition),
    }  # fmt: skip


def _record(
    time_utc: str, latency_ms: float, query: Query, answer: dict[str, Any], figures: dict[str, float], embedding: NDArray[np.float32] | None
) -> dict[str, Any]:
    """What is kept of an answer: figures and keyed hashes; no pixel, no identifier."""
    device = answer["device"]
    record = _asked(query) | {
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
        "image": finite(figures),
        "latency_ms": latency_ms,
    }
    if embedding is not None and np.isfinite(embedding).all():
        record["embedding"] = [float(f"{value:.9g}") for value in embedding]  # nine digits give the same float32 back
    return record


class Plane(DataPlane):
    """KServe's data plane with a stricter door: no cloud events, JSON or a file on v1, and binary tensors that are checked, not exploded.

    KServe turns a binary tensor into a Python list (15 ms where the bytes take 0.8) and answers 500 for lengths that do not fit.
    """

    def decode(self, body: Any, headers: Any, protocol_version: str = "v1", model_name: str | None = None) -> tuple[Any, dict[str, Any]]:
        if any(name.startswith("ce-") for name in headers):
            raise InvalidInput("headers: cloud events are not offered")
        if protocol_version.lower() == "v2":
            if isinstance(body, bytes):
                return binary_request(body, headers, str(model_name)), {}
            return InferRequest.from_inference_request(body, str(model_name)), {}
        kind = bodies.plain(headers.get("content-type", "application/json"))
        if kind in bodies.known():  # whether this model takes it, its own decoding says
            return bytes(body), {}
        if kind != "application/json":
            raise UnsupportedType(f"header Content-Type: not offered; allowed: application/json, {', '.join(bodies.known())}")
        try:
            return orjson.loads(body), {}
        except orjson.JSONDecodeError:
            raise InvalidInput("body: not JSON") from None


def binary_request(body: bytes, headers: Mapping[str, str], model_name: str) -> InferRequest:
    """A v2 request with binary tensors behind its JSON. Raises InvalidInput.

    Source:
        KServe open inference protocol, binary tensor data extension.
    """
    name = "Inference-Header-Content-Length"
    text = headers.get(name.lower(), "")
    if not text.isdigit() or not 2 <= int(text) <= len(body):
        raise InvalidInput(f"header {name}: missing or out of range; allowed: length of the JSON in bytes")
    at = int(text)
    try:
        document = orjson.loads(body[:at])
        tensors = [(t["name"], t["shape"], t["datatype"], t.get("parameters") or {}, t.get("data")) for t in document["inputs"]]
        parameters = document.get("parameters") or {}
        sizes = [p.get("binary_data_size") for _, _, _, p, _ in tensors]
        request_id = document.get("id")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise InvalidInput("inputs: not as the protocol wants it; allowed: name, shape, datatype, and data or parameters.binary_data_size") from None
    if not isinstance(parameters, dict) or not (request_id is None or isinstance(request_id, str)):
        raise InvalidInput("parameters, id: not as the protocol wants it")
    inputs = []
    for (tensor, shape, datatype, own, data), size in zip(tensors, sizes, strict=True):
        one = InferInput(name=str(tensor), shape=shape, datatype=str(datatype), data=data, parameters=own)
        if size is not None:
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(body) - at:
                raise InvalidInput("inputs.parameters.binary_data_size: out of range; allowed: at most the bytes that follow the JSON")
            one._raw_data = body[at : at + size]
            at += size
        inputs.append(one)
    if at != len(body):
        raise InvalidInput("body: more bytes than its tensors")
    return InferRequest(model_name=model_name, infer_inputs=inputs, request_id=request_id, parameters=parameters)
