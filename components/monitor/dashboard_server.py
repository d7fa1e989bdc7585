"""Evidently's own server on our workspace, with a strip of tabs (one per disease), the alarm page, the monitor's reports and `/metrics` beside it.

Importing this module imports Evidently and litestar (seconds): only the command that serves does.

What is different from `evidently ui`: the snapshots are loaded before the first request, in a fraction of the time (`dashboard_load.py`);
nothing can be written through the API (the workspace is derived, and a page in a browser must not be able to change it); no usage statistics;
only requests that name this machine are answered while it listens on loopback; routes that would ask a language model are absent.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["DO_NOT_TRACK"] = "1"  # before the import: Evidently sends usage statistics otherwise
os.environ.setdefault("MPLBACKEND", "agg")

import litestar
import uvicorn
from evidently._pydantic_compat import PrivateAttr, SecretStr
from evidently.ui.service.api.projects import create_projects_api, projects_api_dependencies
from evidently.ui.service.api.service import service_api
from evidently.ui.service.api.static import BASE_PATH
from evidently.ui.service.app import create_app
from evidently.ui.service.components.base import AppBuilder, ComponentContext
from evidently.ui.service.components.dashboard import DashboardComponent
from evidently.ui.service.components.security import SecurityComponent, TokenSecurityComponent
from evidently.ui.service.components.storage import LocalStorageComponent
from evidently.ui.service.components.telemetry import TelemetryComponent
from evidently.ui.service.local_service import LocalConfig, LocalServiceComponent
from evidently.ui.service.storage.common import NO_USER
from evidently.ui.service.storage.local.base import load_project
from litestar.config.allowed_hosts import AllowedHostsConfig
from litestar.static_files import create_static_files_router

from components.core.errors import ServiceError
from components.monitor import dashboard, dashboard_look, prometheus
from components.monitor.dashboard_load import load
from components.monitor.dashboard_series import labels
from components.monitor.dashboard_state import NAME, REPORT, signature
from components.monitor.dashboard_workspace import Changes, project_id

REFRESH_S = 5.0
LOOPBACK = ("127.0.0.1", "localhost")


class Dashboard:
    """The built state and Evidently's copy of it in memory; refreshed when the monitor writes.

    Args:
        state: The monitor's folder.
        workspace: Evidently's folder.
        url: Where people reach this server; links of alarms begin with it.
    """

    def __init__(self, state: Path, workspace: Path, url: str) -> None:
        self.state, self.workspace, self.url = state, workspace, url
        self.seen = signature(state)
        gc.disable()  # building and loading allocate hundreds of thousands of objects, and what they keep stays
        try:
            self.built = dashboard.build(state, workspace, url=url)
            self.memory, self.manager = load(workspace)
        finally:
            gc.enable()
            gc.freeze()

    async def refresh(self) -> bool:
        """Follow the state files once; True when something changed. Files are written aside, memory changes between two requests."""
        now = await asyncio.to_thread(signature, self.state)
        if now == self.seen:
            return False
        self.built = await asyncio.to_thread(dashboard.build, self.state, self.workspace, url=self.url)
        self.seen = now
        self._apply(self.built.changes)
        return True

    async def follow(self) -> None:
        """`refresh` for ever; a failed attempt is tried again."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except OSError as error:
                print(f"dxflow: the dashboard cannot follow the monitor: {error.strerror}", file=sys.stderr, flush=True)

    def _apply(self, changes: Changes) -> None:
        memory = self.memory
        for project in changes.projects_removed:
            memory.projects.pop(uuid.UUID(project), None)
            memory.snapshots.pop(uuid.UUID(project), None)
        for project, snapshots in changes.written.items():
            found = load_project(memory.location, project)
            if found is None:
                continue
            memory.projects[found.id] = found.bind(memory.project_manager, NO_USER.id)
            memory.snapshots.setdefault(found.id, {})
            for snapshot in snapshots:
                memory.reload_snapshot(found, uuid.UUID(snapshot), skip_errors=False)
        for project, snapshots in changes.removed.items():
            for snapshot in snapshots:
                memory.snapshots.get(uuid.UUID(project), {}).pop(uuid.UUID(snapshot), None)

    def strip(self, path: str) -> str:
        """The tabs: the alarm page, then one per disease with the number of its open alarms."""
        entries = [("/monitor/alarms.html", "Alarms", self.built.alarms + len(self.built.unreadable))]
        entries += [(f"/projects/{project_id(s.disease)}", s.disease, len(s.open_alarms)) for s in self.built.states]
        legend = dashboard_look.colours(list(labels(s.history).values()) for s in self.built.states)
        return dashboard_look.tabs(entries, here=path, synthetic=any(s.synthetic for s in self.built.states), legend=legend)


class _Storage(LocalStorageComponent):
    """Hands out the project manager that was loaded before the server began."""

    _manager: Any = PrivateAttr(default=None)

    def project_manager_provider(self) -> Any:
        async def provide() -> Any:
            return self._manager

        return provide


class _Service(LocalServiceComponent):
    """Evidently's project pages and API, and our routes; neither its language-model judges nor its prompt store."""

    _handlers: Any = PrivateAttr(default=())
    _background: Any = PrivateAttr(default=None)

    def get_api_route_handlers(self, ctx: ComponentContext) -> list[Any]:
        guard = ctx.get_component(SecurityComponent).get_auth_guard()
        return [create_projects_api(guard), service_api()]

    def get_dependencies(self, ctx: ComponentContext) -> dict[str, Any]:
        found = super().get_dependencies(ctx)
        found.update(projects_api_dependencies)
        return found

    def get_route_handlers(self, ctx: ComponentContext) -> list[Any]:
        return list(self._handlers)

    def apply(self, ctx: ComponentContext, builder: AppBuilder) -> None:
        super().apply(ctx, builder)
        builder.kwargs["lifespan"] = [self._background]
        if self.host in LOOPBACK:  # a page elsewhere that resolves its own name to 127.0.0.1 reads nothing
            builder.kwargs["allowed_hosts"] = AllowedHostsConfig(allowed_hosts=[f"{name}:{self.port}" for name in LOOPBACK])


def application(board: Dashboard, *, host: str, port: int, started: Callable[[], None]) -> Any:
    """Evidently's ASGI application with our parts in place; `started` is called when it takes requests and signals."""
    # pyright asks for the `type` that Evidently's models fill in by themselves
    storage = _Storage(path=str(board.workspace), autorefresh=False)  # pyright: ignore[reportCallIssue]
    storage._manager = board.manager
    service = _Service(host=host, port=port)  # pyright: ignore[reportCallIssue]
    service._handlers = _routes(board)

    @contextlib.asynccontextmanager
    async def background(_: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(board.follow())
        started()
        try:
            yield
        finally:
            task.cancel()

    service._background = background
    config = LocalConfig(
        security=TokenSecurityComponent(token=SecretStr(secrets.token_hex(32))),  # pyright: ignore[reportCallIssue] - nobody has the token: reading needs none
        service=service,
        storage=storage,
        telemetry=TelemetryComponent(enabled=False),  # pyright: ignore[reportCallIssue]
        dashboard=DashboardComponent(path=str(board.workspace)),  # pyright: ignore[reportCallIssue]
    )
    with contextlib.redirect_stdout(io.StringIO()):  # Evidently prints its dependencies
        return create_app(config)


def _routes(board: Dashboard) -> list[Any]:
    index = Path(BASE_PATH, "index.html").read_text(encoding="utf-8")
    title = "<title>Drift by device - dxflow</title>"
    index = index.replace(index[index.index("<title>") : index.index("</title>") + len("</title>")], title)
    body = index.index("<body>") + len("<body>")

    @litestar.get(["/", "/projects/{path:path}"], include_in_schema=False, sync_to_thread=False)
    def page(request: litestar.Request) -> litestar.Response:
        made = index[:body] + board.strip(request.url.path) + index[body:]
        return litestar.Response(made, media_type=litestar.MediaType.HTML)

    @litestar.get("/monitor/alarms.html", include_in_schema=False, sync_to_thread=False)
    def alarms() -> litestar.Response:
        return litestar.Response(board.built.page, media_type=litestar.MediaType.HTML)

    @litestar.get("/metrics", include_in_schema=False, sync_to_thread=False)
    def metrics() -> litestar.Response:
        return litestar.Response(board.built.metrics, media_type=prometheus.CONTENT_TYPE)

    @litestar.get("/monitor/{disease:str}/{rest:path}", include_in_schema=False, sync_to_thread=True)
    def report(disease: str, rest: str) -> litestar.Response:
        name = rest.lstrip("/")
        path = board.state / disease / name
        if (
            not NAME.fullmatch(disease)
            or not REPORT.fullmatch(name)
            or not path.resolve().is_relative_to(board.state.resolve())
            or not path.is_file()
        ):
            return litestar.Response("no such report", status_code=404, media_type=litestar.MediaType.TEXT)
        return litestar.Response(path.read_text(encoding="utf-8"), media_type=litestar.MediaType.HTML)

    changed = dashboard_look.scripts(Path(BASE_PATH))

    @litestar.get(list(changed) or "/dxflow-no-script", include_in_schema=False, sync_to_thread=False)
    def script(request: litestar.Request) -> litestar.Response:
        return litestar.Response(changed.get(request.url.path, ""), media_type="text/javascript")

    return [page, alarms, metrics, report, script, create_static_files_router("/", directories=[BASE_PATH])]


def serve(state: Path, workspace: Path, *, host: str, port: int, url: str | None = None, announce: Callable[[str], None] = print) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        host: An address of this machine. Beyond loopback there must be a gateway that authenticates: reading needs no password.
        port: 0 takes a free one.
        announce: Called with the address of the alarm page once requests are accepted.

    Raises:
        ServiceError: The port is taken or the address is not this machine's.
    """
    listener = _bind(host, port)
    try:
        _quiet()
        port = listener.getsockname()[1]
        address = f"http://{host}:{port}"
        board = Dashboard(state, workspace, url or os.environ.get("DXFLOW_DASHBOARD_URL") or address)
        app = application(board, host=host, port=port, started=lambda: announce(f"{address}/monitor/alarms.html"))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, server_header=False, timeout_graceful_shutdown=2))
        listener.listen(64)
        with _own_signals(server):
            server.run(sockets=[listener])
    finally:
        listener.close()


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: a taken port fails at once, and no client is let in too early."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServiceError(f"no such address: {error.strerror}", where="--host", got=host) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ServiceError(f"cannot listen: {error.strerror}", where=f"{host}:{port}") from None
    return listener


def _quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def _own_signals(server: uvicorn.Server) -> Iterator[None]:
    """uvicorn stops at a signal and then raises it again: it has done its work by then. One that comes before it listens for signals counts too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
