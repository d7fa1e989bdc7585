"""The KServe face of a disease: a request's bytes in, the inference log, an answer's bytes out, all of it in its turn on a thread of turns.

    v1   POST /v1/models/<disease>:predict   application/json {"instances": [...]}, or one file: the content types that the model's metadata lists
    v2   POST /v2/models/<disease>/infer     one tensor, FP32 [n, *input.shape] or BYTES [n] (files), as JSON or binary; gRPC ModelInfer

The package that holds the disease's place when the turn comes does everything for this request: it decodes, answers and is written down.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
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
from serving import bodies, queries, records, wire
from serving.errors import NotOffered
from serving.explain import layer_png
from serving.journal import Journal, milliseconds, now
from serving.places import Place
from serving.predictor import Answered, Explained, Predictor, Query
from serving.reading.cases import CaseStore
from serving.references import Allowed, References
from serving.telemetry import here, stage
from serving.tickets import Late, Ticket
from serving.turns import Turns

Ask = Callable[[Predictor, list[Query]], list[Answered]]
OUTPUTS = ("probabilities", "decision", "abstain", "answer")
T = TypeVar("T")


@dataclass(frozen=True)
class Explanation:
    """Args: document: The JSON answer. picture: PNG of the sample with its heat; None on abstention."""

    document: wire.Reply
    picture: bytes | None


class UnsupportedType(InvalidInput):
    """A content type that the server, or this model, does not take: 415."""

    status = 415


class DiseaseModel(kserve.Model):
    """One disease at the server, named by its disease. Ready while somebody holds its place."""

    def __init__(
        self, place: Place, pseudonymiser: Pseudonymiser, journal: Journal, turns: Turns, cases: CaseStore | None = None,
        references: References | None = None,
    ) -> None:  # fmt: skip
        super().__init__(place.name)
        self._cases, self._references = cases, references or References(Allowed.from_environment())
        self.place, self._pseudonymiser, self._journal, self._turns = place, pseudonymiser, journal, turns
        self._labels = get_labels(place.name)

    async def healthy(self) -> bool:
        return self.place.predictor is not None

    def load(self) -> bool:
        """KServe asks for this when a model is not ready, on the event loop. Loading is the place's own affair."""
        return self.place.predictor is not None

    def get_input_types(self) -> list[dict[str, Any]]:
        """The tensors that protocol v2 takes: numbers, or files, whose tensors are named by content type; v1 takes those as raw bodies too."""
        spec = self.place.holder().spec
        numbers = {"name": "x", "datatype": "FP32", "shape": [-1, *spec.input.shape]}
        return [numbers, *({"name": kind, "datatype": "BYTES", "shape": [-1]} for kind in bodies.offered(spec))]

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
        """Protocol v1. Raises InvalidInput naming the field, NotReady, Late; ServiceError where a reference's host is away."""
        async with self._v1(body, headers) as read:
            return await self._turn(ticket, read, lambda answers, _: wire.v1_reply(answers))

    async def explain(self, ticket: Ticket, body: bytes, headers: Mapping[str, str]) -> Explanation:
        """Protocol v1's answer about one sample, and where in it the answer comes from; errors as `v1`, and NotOffered for tables."""
        found: list[Explained] = []

        def one(samples: list[Query], predictor: Predictor) -> list[Query]:
            if predictor.spec.input.layout == "table":  # rows have no places
                raise NotOffered
            if len(samples) != 1 and samples[0].source == "recording":
                raise DataError(
                    "one window at a time", where="header X-Dxflow-Window", got=f"{len(samples)} windows", allowed=f"0 to {len(samples) - 1}"
                )
            if len(samples) != 1:
                raise DataError("one sample at a time", where="instances", got=len(samples), allowed=1)
            return samples

        def ask(predictor: Predictor, samples: list[Query]) -> list[Answered]:
            explained = predictor.explain(samples[0])
            assert explained is not None  # no table
            found.append(explained)
            return [explained.answered]

        async with self._v1(body, headers) as read:
            return await self._turn(ticket, lambda p: one(read(p), p), lambda answers, _: _explanation(found[0], answers[0]), ask)

    @asynccontextmanager
    async def _v1(self, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Callable[[Predictor], list[Query]]]:
        """What reads the request in its turn. What a reference names is fetched before that: a slow PACS holds up nobody else."""
        kind = bodies.plain(headers.get("content-type", wire.JSON))
        if kind != wire.JSON and kind not in bodies.known():
            raise UnsupportedType(f"header Content-Type: not offered; allowed: {wire.JSON}, {', '.join(bodies.known())}")
        try:
            named = await asyncio.to_thread(wire.document, body) if kind == wire.JSON and b'"reference"' in body else None
            async with self._references.fetched(named) as files:

                def read(predictor: Predictor) -> list[Query]:
                    if kind != wire.JSON:
                        return queries.from_raw(body, headers, predictor.spec, self._pseudonymiser)
                    queries.check_headers(headers)
                    return queries.from_document(wire.document(body), predictor.spec, self._pseudonymiser, files)

                yield read
        except DataError as error:
            raise InvalidInput(str(error)) from None

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
        named = {"content_type": tensor.name} if tensor.name in bodies.known() else {}
        parameters = {**named, **tensor.parameters, **asked.parameters}
        return queries.from_tensor(tensor.shape, tensor.datatype, tensor.data, tensor.raw, parameters, predictor.spec, self._pseudonymiser)

    async def _turn(
        self,
        ticket: Ticket,
        read: Callable[[Predictor], list[Query]],
        reply: Callable[[list[dict[str, Any]], Predictor], T],
        ask: Ask | None = None,
    ) -> T:
        """The answer leaves when all of it is in the log, or counted because no disk takes it."""

        def work() -> T:
            predictor = self.place.holder()
            with ExitStack() as slot:
                slot.enter_context(self._turns.reading(ticket))
                with PRE_HIST_TIME.labels(**self._labels).time(), stage("decode", request):
                    try:
                        found = read(predictor)
                    except bodies.NotTaken as error:
                        raise UnsupportedType(str(error)) from None
                    except DataError as error:
                        raise InvalidInput(str(error)) from None
                own = ask
                if any(query.tiles is not None for query in found):
                    own = ask or alone  # half a gigabyte each: as many are held as are read
                else:
                    slot.close()
                with PREDICT_HIST_TIME.labels(**self._labels).time(), stage("infer", request):
                    answers, written = self._answer(predictor, ticket, found, own)
            with POST_HIST_TIME.labels(**self._labels).time(), stage("encode", request):
                answer = reply(answers, predictor)
            with stage("log", request):
                if not self._journal.write(ticket.request_id, written, ticket.gone):
                    raise Late
            return answer

        request = here()
        return await self._turns.run(ticket, work)

    def _answer(self, predictor: Predictor, ticket: Ticket, found: list[Query], ask: Ask | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The answers and their records. Without `ask` the samples are answered with those of others, which slides would only hold up."""
        ids = [f"{ticket.request_id}-{n}" if len(found) > 1 else ticket.request_id for n in range(len(found))]
        try:
            if ask is not None:
                answered = self._turns.alone(ticket, ask, predictor, found)
            else:
                answered = list(self._turns.engine.ask(predictor.work, found, most=predictor.engine.together, ticket=ticket))
        except Late:  # what became of it is written down where that is told
            raise
        except Exception:
            failed = [records.failed(i, query, predictor, ticket.started) for i, query in zip(ids, found, strict=True)]
            self._journal.write(ticket.request_id, failed, ticket.gone)
            raise
        answers = [one.answer for one in answered]
        for answer, own in zip(answers, ids, strict=True):
            answer["request_id"] = own
        at, latency = now(), milliseconds(ticket.started)
        written = [records.answered(at, latency, query, one) for query, one in zip(found, answered, strict=True)]
        if self._cases is not None:
            self._keep(self._cases, predictor, found, answered)
        return answers, written

    def _keep(self, cases: CaseStore, predictor: Predictor, found: list[Query], answered: list[Answered]) -> None:
        """For the reading page. An answer is not held up by a page that cannot be filled."""
        positive = [predictor.spec.target.classes[k] for k in predictor.spec.positive_indices]
        for query, one in zip(found, answered, strict=True):
            cases.keep(query, one.answer, positive, datetime.now(UTC), heat=predictor.slide_heat(query, one))


def alone(predictor: Predictor, samples: list[Query]) -> list[Answered]:
    """An `Ask`: the answers to one request's samples, without those of others."""
    return predictor.work(samples)


def _explanation(found: Explained, answer: dict[str, Any]) -> Explanation:
    """`heatmap`: method, classes, places and two PNGs (the sample with its heat; the heat alone, transparent); null on abstention. Of a slide also
    how many microns a pixel is."""
    heat = None
    if found.heat is not None and found.overlay is not None:
        heat = {
            "method": found.method, "classes": found.classes, "places": found.heat.shape,
            "overlay_png_base64": base64.b64encode(found.overlay).decode(), "layer_png_base64": base64.b64encode(layer_png(found.heat)).decode(),
        } | ({"microns_per_pixel": found.pixel_um} if found.pixel_um is not None else {})  # fmt: skip
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
