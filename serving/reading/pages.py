"""The routes of the reading page, a Starlette application of its own behind the server's guard and access layer.

GET  /read                    work-list, the most urgent first; ?read=1 those that were read, the last first; ?of=<id> all windows of that case's
                              recording; ?page=, ?model=, ?state= and ?q= (how a pseudonym or a request's id begins) choose, and nothing is hidden
                              without a word
GET  /read/case/<id>          image, answer, verdict
GET  /read/case/<id>/pixels   float32, little-endian, (C, D, H, W); GET .../heat: uint8, (D, H, W)
POST /read/case/<id>          verdict, label, comment
GET, POST /read/login         where tokens are asked for
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from components.core.atomic import write_text
from components.core.errors import DataError, DxflowError, ServiceError
from components.core.imaging import laterality
from components.core.inference_log.tables import SLIDE
from components.core.spec import DiseaseSpec
from serving import slide_answer
from serving.access.audit import Audit
from serving.access.layer import COOKIE, IDENTITY
from serving.access.policy import Denied, Identity, Policy
from serving.predictor import Predictor
from serving.reading import words
from serving.reading.cases import AGREE, DISAGREE, MAX_COMMENT, OWN, CaseStore, Reading, now
from serving.reading.tables import NOTHING, POSSIBLE, STATES, URGENT
from serving.reading.work_list import LONGEST, SHORTEST, SIZE, Case, Filter, Page
from serving.turns import Turns

HERE = Path(__file__).parent
STATIC = {"reading.css": "text/css", "viewer.js": "text/javascript", "list.js": "text/javascript"}
TONES = {URGENT: "high", POSSIBLE: "read", NOTHING: "read"}
SEARCH = re.compile(rf"[0-9a-f-]{{{SHORTEST},{LONGEST}}}")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
}  # fmt: skip
MAX_FORM = 16_384
GRID = laterality.edges_of_grid(np.eye(3))
"""What lies at the edges of a slice of a volume: the grid of `resample.head_on_grid` runs to the right, the front and the head."""


class ReadingPage:
    """The application is `app`.

    Args:
        predictors: Disease -> what answers now.
        turns: Whose turn it is to ask a model.
        inbox: Disease -> folder from which the monitor takes late labels.
    """

    def __init__(
        self, cases: CaseStore, predictors: Callable[[], Mapping[str, Predictor]], turns: Turns, policy: Policy, audit: Audit | None,
        inbox: Callable[[str], Path],
    ) -> None:  # fmt: skip
        self._cases, self._predictors, self._turns, self._policy = cases, predictors, turns, policy
        self._audit, self._inbox = audit, inbox
        case = "/read/case/{name}"
        self.app = Starlette(
            routes=[
                Route("/read", self.work_list),
                Route("/read/login", self.login, methods=["GET", "POST"]),
                Route("/read/static/{name}", self.static),
                Route(case, self.show),
                Route(case, self.tell, methods=["POST"]),
                Route(f"{case}/pixels", self.pixels),
                Route(f"{case}/heat", self.heat),
            ],
            exception_handlers={DxflowError: self._wrong},
        )

    async def work_list(self, request: Request) -> Response:
        asked = request.query_params
        if of := asked.get("of"):
            windows = await asyncio.to_thread(self._cases.recording, of)
            page = await asyncio.to_thread(self._cases.page, size=1)
            return await asyncio.to_thread(self._list, request, windows, page, Filter(), of)  # of thousands of windows, half a second
        chosen = Filter(asked.get("read") == "1", asked.get("model") or None, asked.get("state") or None, asked.get("q", "").strip().lower())
        if chosen.state not in (None, *STATES):
            raise DataError("no such state", where="state", allowed=", ".join(STATES))
        if chosen.search and not SEARCH.fullmatch(chosen.search):
            raise DataError(
                "not the beginning of a pseudonym or of a request's id", where="search", allowed=f"{SHORTEST} to {LONGEST} of 0-9, a-f and -"
            )
        number = asked.get("page", "1")
        if not (number.isascii() and number.isdigit() and len(number) < 7):
            raise DataError("no such page", where="page", allowed="a number")
        page = await asyncio.to_thread(self._cases.page, chosen, number=int(number), size=SIZE)
        return await asyncio.to_thread(self._list, request, page.cases, page, chosen, None)

    def _list(self, request: Request, cases: Sequence[Case], page: Page, chosen: Filter, of: str | None) -> Response:
        rows = []
        for case in cases:
            predictor = self._predictors().get(case.disease)
            told = words.said(case.answer, predictor.package) if predictor else None
            title, part = (predictor.spec.title, words.part(case.answer, predictor.spec)) if predictor else (case.disease, "")
            rows.append(
                {"case": case, "said": told, "title": title, "part": part, "device": words.device(case.answer), "tone": TONES.get(case.state, "low")}
            )
        titles = {name: found.spec.title for name, found in self._predictors().items()}

        def link(**changes: object) -> str:
            """The list with another choice; any but that of a page begins at the first one."""
            given = {"read": int(chosen.read), "model": chosen.disease, "state": chosen.state, "q": chosen.search, "page": None} | changes
            query = urlencode({name: str(value) for name, value in given.items() if value})
            return f"/read?{query}" if query else "/read"

        return self._page(
            "list.html.j2", request, rows=rows, page=page, chosen=chosen, of=of, link=link, states=STATES, titles=titles,
            synthetic=any(case.answer["synthetic"] for case in cases), lost=self._cases.lost,
            waiting=self._cases.waiting(), removed=self._cases.removed(),
            search=f"[0-9A-Fa-f-]{{{SHORTEST},{LONGEST}}}",
        )  # fmt: skip

    async def show(self, request: Request) -> Response:
        case, query, readings = await asyncio.to_thread(self._cases.get, request.path_params["name"])
        predictor = self._predictor(case.disease)
        shape = _volume(query.array, predictor.spec.input.layout).shape
        spec = predictor.spec
        return self._page(
            "case.html.j2", request, case=case, said=words.said(case.answer, predictor.package), device=words.device(case.answer), title=spec.title,
            limits=words.limits(predictor.package), readings=readings, classes=spec.target.classes, shape=shape, layout=spec.input.layout,
            unit=spec.input.unit, synthetic=case.answer["synthetic"], range=spec.input.range, max_comment=MAX_COMMENT,
            explainable=spec.input.layout != "table" and not case.answer["abstain"], part=words.part(case.answer, spec), axes=_axes(case, spec),
            marks=GRID if spec.input.layout == "volume" else query.edges,
        )  # fmt: skip

    async def pixels(self, request: Request) -> Response:
        case, query, _ = await asyncio.to_thread(self._cases.get, request.path_params["name"])
        volume = _volume(query.array, self._predictor(case.disease).spec.input.layout)
        return Response(volume.astype("<f4").tobytes(), media_type="application/octet-stream", headers=HEADERS)

    async def heat(self, request: Request) -> Response:
        case, query, _ = await asyncio.to_thread(self._cases.get, request.path_params["name"])
        predictor = self._predictor(case.disease)
        if query.source == SLIDE:
            kept = self._cases.heat(case.id)
            if kept is None:
                raise DataError("there is no heat-map of this one", where="case")
            return _heat(kept, slide_answer.METHOD, predictor.explained(case.answer))
        found = await asyncio.get_running_loop().run_in_executor(self._turns.executor, self._turns.alone, None, predictor.explain, query)
        if found is None or found.heat is None:
            raise DataError("there is no heat-map of this one", where="case")
        volume = np.round(255 * _volume(found.heat[None], predictor.spec.input.layout)).astype(np.uint8)
        return _heat(volume, found.method or "", found.classes)

    async def tell(self, request: Request) -> Response:
        """A reader's verdict: kept with the case, as a late label for the monitor, and in the audit log (without its text)."""
        name = request.path_params["name"]
        case, _, _ = await asyncio.to_thread(self._cases.get, name)
        classes = self._predictor(case.disease).spec.target.classes
        form = await _form(request)
        verdict, label, comment = form.get("verdict", ""), form.get("label") or None, form.get("comment", "").strip()
        allowed = (OWN,) if case.answer["abstain"] else (AGREE, DISAGREE)
        if verdict not in allowed:
            raise DataError("no verdict", where="verdict", allowed=", ".join(allowed))
        if verdict == AGREE:
            label = str(case.answer["decision"])
        elif label not in classes:
            raise DataError("no class", where="label", allowed=", ".join(classes))
        if len(comment) > MAX_COMMENT:
            raise DataError("too long", where="comment", got=f"{len(comment)} characters", allowed=MAX_COMMENT)
        at, who = now(), _who(request).name
        await asyncio.to_thread(self._cases.tell, case.id, Reading(at, who, verdict, label, comment))
        if label in classes:  # several at once, or none of them, is no label that the monitor compares
            text = io.StringIO()
            csv.writer(text).writerows([("sample", "label", "at", "version"), (case.request_id, label, at.isoformat(), case.answer["digest"])])
            write_text(self._inbox(case.disease) / f"{at:%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}.csv", text.getvalue())
        if self._audit is not None:
            facts = {"who": who, "model": case.disease, "request_id": case.request_id, "verdict": verdict, "label": label, "commented": bool(comment)}
            self._audit.append("verdict", **facts)
        following = next((c.id for c in (await asyncio.to_thread(self._cases.page, size=1)).cases), None)
        return RedirectResponse(f"/read/case/{following}" if following and form.get("next") else "/read", 303, headers=HEADERS)

    async def login(self, request: Request) -> Response:
        if self._policy.open:
            return RedirectResponse("/read", 303, headers=HEADERS)
        if request.method == "GET":
            return self._page("login.html.j2", request, wrong="", synthetic=False)
        token = (await _form(request)).get("token", "").strip()
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._policy.identify, f"Bearer {token}")
        except (Denied, DxflowError) as error:
            return self._page("login.html.j2", request, wrong=str(error), synthetic=False, status=401)
        reply = RedirectResponse("/read", 303, headers=HEADERS)
        reply.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/read", max_age=8 * 3600)
        return reply

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return Response("not found", 404)
        return Response(_file(name), media_type=STATIC[name], headers=HEADERS | {"Cache-Control": "max-age=3600"})

    def _predictor(self, disease: str) -> Predictor:
        found = self._predictors().get(disease)
        if found is None:
            raise DataError("its model is not served here any more", where="case")
        return found

    async def _wrong(self, request: Request, error: Any) -> Response:
        status = 503 if isinstance(error, ServiceError) else 404 if request.method == "GET" else 400
        text = error.what if isinstance(error, ServiceError) else str(error)  # where it is, is nobody's matter here
        return self._page("wrong.html.j2", request, text=text, synthetic=False, status=status)

    def _page(self, name: str, request: Request, *, status: int = 200, **values: Any) -> HTMLResponse:
        values |= {"assists": words.ASSISTS, "synthetic_words": words.SYNTHETIC, "who": _who(request).name, "local": self._policy.open}
        return HTMLResponse(_templates().get_template(name).render(**values), status, headers=HEADERS)


def _volume(array: np.ndarray, layout: str) -> np.ndarray:
    """(C, *places) -> (C, D, H, W): one slice of an image, one row of a recording or a table."""
    if layout == "volume":
        return array
    return array[:, None] if array.ndim == 3 else array.reshape(len(array), 1, 1, -1)


def _heat(values: np.ndarray, method: str, classes: Sequence[str]) -> Response:
    """(..., H, W) uint8 as bytes."""
    headers = HEADERS | {"X-Method": method, "X-Classes": ",".join(classes)}
    return Response(values.tobytes(), media_type="application/octet-stream", headers=headers)


def _axes(case: Case, spec: DiseaseSpec) -> dict[str, Any]:
    """What stands at the curves of a recording: the channels' names, and its first and last second."""
    if spec.recording is None or spec.input.layout != "window":
        return {"names": (), "start": 0.0, "end": 0.0}
    start = float((case.answer.get("part") or {}).get("start_s", 0.0))
    return {"names": spec.recording.channels, "start": start, "end": start + (spec.input.window_s or 0.0)}


async def _form(request: Request) -> dict[str, str]:
    """Of application/x-www-form-urlencoded, the last value of each name."""
    body = await request.body()
    if len(body) > MAX_FORM:
        raise DataError("too large", where="form", got=f"{len(body)} bytes", allowed=f"{MAX_FORM} bytes")
    try:
        found = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise DataError("not a form", where="form") from None
    return {name: values[-1] for name, values in found.items()}


def _who(request: Request) -> Identity:
    return request.scope.get(IDENTITY) or Identity("nobody", frozenset())


@lru_cache(maxsize=len(STATIC))
def _file(name: str) -> bytes:
    return (HERE / "static" / name).read_bytes()


@lru_cache(maxsize=1)
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
