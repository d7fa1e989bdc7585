"""The KServe face of a disease: a request's bytes in, the inference log, an answer's bytes out, all of it in its turn on the thread of turns.

    v1   POST /v1/models/<disease>:predict   application/json {"instances": [...]}, or one file as the body
    v2   POST /v2/models/<disease>/infer     one tensor, FP32 [n, *input.shape] or BYTES [n] (files), as JSON or binary; gRPC ModelInfer

The package that holds the disease's place when the turn comes does everything for this request: it decodes, answers and is written down.
"""

from __future__ import annotations

import base64
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import kserve
import numpy as np
import orjson
from kserve.errors import InvalidInput
from kserve.metrics import POST_HIST_TIME, PRE_HIST_TIME, PREDICT_HIST_TIME, get_labels

from components.core.errors import DataError
from components.core.pseudonym import Pseudonymiser
from serving import queries, records, wire
from serving.explain import layer_png
from serving.journal import Journal, milliseconds, now
from serving.places import Place
from serving.predictor import Answered, Explained, Predictor, Query
from serving.reading.cases import CaseStore
from serving.turns import Ticket, Turns

DICOM = "application/dicom"
FILES = (DICOM,)
"""Content types of a body, or of an element of a BYTES tensor, that is one file."""
Ask = Callable[[Predictor, list[Query]], list[Answered]]
log = logging.getLogger("dxflow.serving")
OUTPUTS = ("probabilities", "decision", "abstain", "answer")
T = TypeVar("T")


@dataclass(frozen=True)
class Explanation:
    """Args: document: The JSON answer. picture: PNG of the sample with its heat; None on abstention."""

    document: wire.Reply
    picture: bytes | None


class DiseaseModel(kserve.Model):
    """One disease at the server, named by its disease. Ready while somebody holds its place."""

    def __init__(self, place: Place, pseudonymiser: Pseudonymiser, journal: Journal, turns: Turns, cases: CaseStore | None = None) -> None:
        super().__init__(place.name)
        self._cases = cases
        self.place, self._pseudonymiser, self._journal, self._turns = place, pseudonymiser, journal, turns
        self._labels = get_labels(place.name)

    async def healthy(self) -> bool:
        return self.place.predictor is not None

    def load(self) -> bool:
        """KServe asks for this when a model is not ready, on the event loop. Loading is the place's own affair."""
        return self.place.predictor is not None

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": "x", "datatype": "FP32", "shape": [-1, *self.place.holder().spec.input.shape]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(self.place.holder().spec.target.classes)]},
            {"name": "decision", "datatype": "BYTES", "shape": [-1]},
            {"name": "abstain", "datatype": "BOOL", "shape": [-1]},
            {"name": "answer", "datatype": "BYTES", "shape": [-1]},
        ]

    @property
    def version(self) -> str:
        return self.place.holder().package.version

    async def v1(self, ticket: Ticket, body: bytes, headers: Mapping[str, str]) -> wire.Reply:
        """Protocol v1. Raises InvalidInput naming the field, NotReady, Late."""
        return await self._turn(ticket, self._v1(body, headers), lambda answers, _: wire.v1_reply(answers))

    async def explain(self, ticket: Ticket, body: bytes, headers: Mapping[str, str]) -> Explanation:
        """Protocol v1's answer about one sample, and where in it the answer comes from; errors as `v1`, and NotImplementedError for tables."""
        found: list[Explained] = []

        def read(predictor: Predictor) -> list[Query]:
            samples = self._v1(body, headers)(predictor)
            if predictor.spec.input.layout == "table":  # its rows have no places
                raise NotImplementedError
            if len(samples) != 1:
                raise DataError("one sample at a time", where="instances", got=len(samples), allowed=1)
            return samples

        def ask(predictor: Predictor, samples: list[Query]) -> list[Answered]:
            explained = predictor.explain(samples[0])
            assert explained is not None  # no table
            found.append(explained)
            return [explained.answered]

        return await self._turn(ticket, read, lambda answers, _: _explanation(found[0], answers[0]), ask)

    def _v1(self, body: bytes, headers: Mapping[str, str]) -> Callable[[Predictor], list[Query]]:
        def read(predictor: Predictor) -> list[Query]:
            kind = headers.get("content-type", wire.JSON).split(";")[0].strip().lower()
            if kind in FILES:
                return [queries.from_raw(body, headers, predictor.spec, self._pseudonymiser)]
            if kind != wire.JSON:
                raise DataError("not offered", where="header Content-Type", allowed=", ".join((wire.JSON, *FILES)))
            return queries.from_document(wire.document(body), predictor.spec, self._pseudonymiser)

        return read

    async def v2(self, ticket: Ticket, asked: Callable[[], wire.Asked], reply: Callable[[wire.Asked, list[wire.Output], str], T]) -> T:
        """Protocol v2; errors as `v1`.

        Args:
            asked: Reads the request, on the thread.
            reply: The answer from the request, the outputs and the version.
        """
        found: list[wire.Asked] = []

        def read(predictor: Predictor) -> list[Query]:
            found.append(asked())
            wire.check_outputs(found[0], OUTPUTS)
            return self._from_tensors(found[0], predictor)

        return await self._turn(ticket, read, lambda answers, predictor: reply(found[0], outputs(answers, predictor), predictor.package.version))

    def _from_tensors(self, asked: wire.Asked, predictor: Predictor) -> list[Query]:
        if len(asked.tensors) != 1:
            raise DataError("another number of tensors", where="inputs", got=len(asked.tensors), allowed=1)
        tensor = asked.tensors[0]
        parameters = {**tensor.parameters, **asked.parameters}
        if tensor.datatype != "BYTES":
            return queries.from_tensor(tensor.shape, tensor.datatype, tensor.data, tensor.raw, parameters.get("device_key"), predictor.spec)
        files = wire.elements(tensor, "inputs[0]", most=queries.MAX_SAMPLES)
        if tensor.shape != [len(files)] or not files:
            raise DataError("another shape than its elements", where="inputs[0].shape", allowed=[max(1, len(files))])
        kind = str(parameters.get("content_type", DICOM)).lower()
        if kind not in FILES:
            raise DataError("not offered", where="inputs[0].parameters.content_type", allowed=", ".join(FILES))
        headers = {"content-type": kind}
        for name, header in (("row", queries.ROW_HEADER), ("column", queries.COLUMN_HEADER)):
            if name in parameters:
                headers[header.lower()] = str(parameters[name])
        return [self._from_file(data, headers, f"inputs[0].data[{n}]", predictor) for n, data in enumerate(files)]

    def _from_file(self, data: bytes, headers: Mapping[str, str], where: str, predictor: Predictor) -> Query:
        try:
            return queries.from_raw(data, headers, predictor.spec, self._pseudonymiser)
        except DataError as error:  # a tensor has no headers and is not the body
            place = f"inputs[0].parameters.{str(error.where).rpartition('-')[2].lower()}" if str(error.where).startswith("header ") else where
            raise DataError(error.what, where=place, got=error.got, allowed=error.allowed) from None

    async def _turn(
        self,
        ticket: Ticket,
        read: Callable[[Predictor], list[Query]],
        reply: Callable[[list[dict[str, Any]], Predictor], T],
        ask: Ask = Predictor.work,
    ) -> T:
        """The answer leaves when all of it is in the log, or counted because no disk takes it."""

        def work() -> T:
            predictor = self.place.holder()
            with PRE_HIST_TIME.labels(**self._labels).time():
                try:
                    found = read(predictor)
                except DataError as error:
                    raise InvalidInput(str(error)) from None
            with PREDICT_HIST_TIME.labels(**self._labels).time():
                answers = self._answer(predictor, ticket, found, ask)
            with POST_HIST_TIME.labels(**self._labels).time():
                return reply(answers, predictor)

        return await self._turns.run(ticket, work)

    def _answer(self, predictor: Predictor, ticket: Ticket, found: list[Query], ask: Ask) -> list[dict[str, Any]]:
        ids = [f"{ticket.request_id}-{n}" if len(found) > 1 else ticket.request_id for n in range(len(found))]
        try:
            answered = ask(predictor, found)
        except Exception:
            failed = [records.failed(i, query, predictor, ticket.started) for i, query in zip(ids, found, strict=True)]
            self._journal.write(ticket.request_id, failed)
            raise
        answers = [one.answer for one in answered]
        for answer, own in zip(answers, ids, strict=True):
            answer["request_id"] = own
        at, latency = now(), milliseconds(ticket.started)
        written = [records.answered(at, latency, query, one) for query, one in zip(found, answered, strict=True)]
        self._journal.write(ticket.request_id, written)
        if self._cases is not None:
            self._keep(self._cases, predictor, found, answers)
        return answers

    def _keep(self, cases: CaseStore, predictor: Predictor, found: list[Query], answers: list[dict[str, Any]]) -> None:
        """For the reading page. An answer is not held up by a page that cannot be filled."""
        positive = [predictor.spec.target.classes[k] for k in predictor.spec.positive_indices]
        try:
            for query, answer in zip(found, answers, strict=True):
                cases.add(query, answer, positive, datetime.now(UTC))
        except (OSError, sqlite3.Error) as error:
            log.error("a case could not be kept for the reading page: %s", type(error).__name__)


def _explanation(found: Explained, answer: dict[str, Any]) -> Explanation:
    """`heatmap`: method, classes, places and two PNGs (the sample with its heat; the heat alone, transparent); null on abstention."""
    heat = None
    if found.heat is not None and found.overlay is not None:
        heat = {
            "method": found.method, "classes": found.classes, "places": found.heat.shape,
            "overlay_png_base64": base64.b64encode(found.overlay).decode(), "layer_png_base64": base64.b64encode(layer_png(found.heat)).decode(),
        }  # fmt: skip
    return Explanation(wire.Reply(orjson.dumps({"explanations": [answer | {"heatmap": heat}]})), found.overlay)


def outputs(answers: Sequence[Mapping[str, Any]], predictor: Predictor) -> list[wire.Output]:
    """The answers as v2 tensors. Where the model was not asked, probabilities are not-a-number (null in JSON) and the decision is ""."""
    classes, n = predictor.spec.target.classes, len(answers)
    p = np.array([[a["probabilities"].get(c, np.nan) for c in classes] for a in answers], dtype="<f4")
    return [
        wire.Output("probabilities", "FP32", [n, len(classes)], p),
        wire.Output("decision", "BYTES", [n], [(a["decision"] or "").encode() for a in answers]),
        wire.Output("abstain", "BOOL", [n], np.array([a["abstain"] for a in answers], dtype=bool)),
        wire.Output("answer", "BYTES", [n], [orjson.dumps(a) for a in answers]),
    ]
