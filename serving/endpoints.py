"""The server's HTTP routes: KServe's for health and metadata, ours for predictions, over one data plane that gRPC uses too.

KServe's routes for predictions read JSON on the event loop, and turn every tensor of protocol v2 into a list of Python objects that pydantic checks
twice (11 to 15 ms for 224 x 224 numbers). Ours give the body as it came to the model's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import fastapi
from kserve import ModelRepository
from kserve.errors import InvalidInput, ModelNotFound
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving import queries, wire
from serving.errors import TICKET, NotOffered
from serving.model import DiseaseModel
from serving.places import NotReady, Places


class Plane(DataPlane):
    """KServe's data plane with our models, and a readiness that means something.

    `draining`: the server is about to stop. It is then not ready, and answers all the same.
    """

    def __init__(self, models: list[DiseaseModel]) -> None:
        repository = ModelRepository()
        for model in models:
            repository.update(model)
        super().__init__(model_registry=repository)
        self._server_name = "dxflow"
        self.draining = False

    async def ready(self) -> bool:
        """Whether any model answers: those that do must not be cut off from their clients because of one that does not."""
        return not self.draining and any(model.place.predictor for model in self.models)

    @property
    def models(self) -> list[DiseaseModel]:
        return list(self.model_registry.get_models().values())  # pyright: ignore[reportReturnType]

    @property
    def names(self) -> list[str]:
        return [model.name for model in self.models]

    def metadata(self) -> dict[str, Any]:
        return super().metadata() | {"extensions": ["binary_tensor_data"]}

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Raises ModelNotFound, NotReady."""
        model = self.model(model_name)
        return await super().model_metadata(model_name) | {"versions": [model.version], "platform": "dxflow"}

    def model(self, name: str, version: str = "") -> DiseaseModel:
        """Raises ModelNotFound; NotOffered for a version that is not the one that serves."""
        model = self.get_model_from_registry(name)
        if not isinstance(model, DiseaseModel):
            raise ModelNotFound(name)
        if version and version != model.version:
            raise NotOffered
        return model


class Repository(ModelRepositoryExtension):
    """What of Triton's model repository extension is offered: the index, and loading what the model's source has now."""

    def __init__(self, plane: Plane, places: Places) -> None:
        super().__init__(model_registry=plane.model_registry)
        self._places = places

    async def load(self, model_name: str) -> None:
        """Replace the model if its source has another package. Raises ModelNotFound; NotReady with the reason when that one does not load."""
        place = self._places.by_name.get(model_name)
        if place is None:
            raise ModelNotFound(model_name)
        if not await asyncio.to_thread(place.renew, anew=True):
            stays = f"version {place.predictor.package.version} stays: " if place.predictor else ""
            raise NotReady(f"{stays}{place.reason}")

    async def unload(self, model_name: str) -> None:
        raise NotOffered

    def index_(self) -> list[dict[str, str]]:
        """Name, version, state and reason of each model, as Triton has them."""
        return [
            {
                "name": place.name,
                "version": place.predictor.package.version if place.predictor else "",
                "state": "READY" if place.predictor else "UNAVAILABLE",
                "reason": place.reason or "",
            }
            for place in self._places
        ]


def application(plane: Plane, repository: Repository, port: int, grace_s: float, metrics: Callable[[], bytes] | None = None) -> tuple[Any, Any]:
    """An ASGI application with KServe's routes and ours before them, and KServe's uvicorn configuration.

    KServe's own application is one for the whole process, and has pages that tell about the server.

    Args:
        metrics: What GET /metrics answers; None: KServe's own, of this process.
    """
    app = fastapi.FastAPI(title="dxflow", docs_url=None, redoc_url=None)

    async def v1(request: Request) -> Response:
        model = plane.model(request.path_params["name"])
        model.place.holder()
        return _response(await model.v1(request.scope[TICKET], await request.body(), _headers(request)))

    async def v2(request: Request) -> Response:
        model = plane.model(request.path_params["name"], request.path_params.get("version", ""))
        model.place.holder()
        headers = _headers(request)
        body, ticket = await request.body(), request.scope[TICKET]

        def reply(asked: wire.Asked, outputs: list[wire.Output], version: str) -> wire.Reply:
            return wire.v2_reply(asked, outputs, model=model.name, version=version, request_id=ticket.request_id)

        def asked() -> wire.Asked:
            queries.check_headers(headers)
            return wire.v2_request(body, headers)

        return _response(await model.v2(ticket, asked, reply))

    async def explain(request: Request) -> Response:
        # KServe's own returns the request's headers, cookies too, with an explanation.
        model = plane.model(request.path_params["name"])
        model.place.holder()
        headers = _headers(request)
        reply = await model.explain(request.scope[TICKET], await request.body(), headers)
        if reply.picture is not None and headers.get("accept", "").startswith("image/png"):
            return Response(reply.picture, media_type="image/png")
        return _response(reply.document)

    async def version_ready(request: Request) -> Response:
        # KServe's own answers 501 for any version, also for the one that serves.
        model = plane.model(request.path_params["name"], request.path_params["version"])
        model.place.holder()
        return JSONResponse({"name": model.name, "ready": True})

    async def version(request: Request) -> Response:
        model = plane.model(request.path_params["name"], request.path_params["version"])
        return JSONResponse(await plane.model_metadata(model.name))

    async def index(request: Request) -> Response:
        return JSONResponse(repository.index_())

    if metrics is not None:

        async def measured(request: Request) -> Response:
            return Response(await asyncio.to_thread(metrics), media_type=CONTENT_TYPE_LATEST)

        app.router.add_route("/metrics", measured, methods=["GET"])

    app.router.add_route("/v1/models/{name}:predict", v1, methods=["POST"])
    app.router.add_route("/v1/models/{name}:explain", explain, methods=["POST"])
    app.router.add_route("/v2/models/{name}/infer", v2, methods=["POST"])
    app.router.add_route("/v2/models/{name}/versions/{version}/infer", v2, methods=["POST"])
    app.router.add_route("/v2/models/{name}/versions/{version}/ready", version_ready, methods=["GET"])
    app.router.add_route("/v2/models/{name}/versions/{version}", version, methods=["GET"])
    app.router.add_route("/v2/repository/index", index, methods=["POST"])
    rest = RESTServer("", plane, repository, port, grace_period=max(1, round(grace_s)))
    rest._register_endpoints(app)
    return app, rest.config


def _headers(request: Request) -> dict[str, str]:
    """Names in lower case. Raises InvalidInput for what is not offered."""
    headers = dict(request.headers)
    own = [name for name in request.headers.keys() if name.startswith("x-dxflow-")]  # noqa: SIM118 - each as often as it was sent
    if len(own) != len(set(own)):
        raise InvalidInput("headers X-Dxflow-*: one of them stands there twice; allowed: each of them once")
    if any(name.startswith("ce-") for name in headers):
        raise InvalidInput("headers: cloud events are not offered")
    if headers.get("content-encoding", "identity") != "identity":
        raise InvalidInput("header Content-Encoding: not offered; allowed: identity")
    return headers


def _response(reply: wire.Reply) -> Response:
    if reply.json_bytes is None:
        return Response(reply.body, media_type=wire.JSON)
    return Response(reply.body, media_type="application/octet-stream", headers={wire.LENGTH: str(reply.json_bytes)})
