"""The layer in front: roles by path, one line of audit for each request, nothing of a patient in it."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.audit import Audit, signing_key
from serving.access.layer import COOKIE, Access
from serving.access.policy import Policy, new_token
from serving.access.roles import ADMIN, OPERATOR, READER, ROLES, needed

PATHS = {
    "/v1/models/lung-nodule:predict": {READER}, "/v2/models/lung-nodule/infer": {READER}, "/v2/models/lung-nodule/versions/3/infer": {READER},
    "/v1/models/lung-nodule:explain": {READER}, "/read": {READER}, "/read/case/1": {READER}, "/metrics": {OPERATOR, ADMIN},
    "/v2/repository/index": {OPERATOR, ADMIN}, "/v2/repository/models/lung-nodule/load": {ADMIN}, "/v1/models": set(ROLES),
    "/v2/models/lung-nodule": set(ROLES), "/openapi.json": set(ROLES), "/anything": set(ROLES),
}  # fmt: skip


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"ab" * 16)]})
    await send({"type": "http.response.body", "body": b"seen"})


class Site:
    def __init__(self, tmp_path: Path, host: str = "0.0.0.0") -> None:
        made = {role: new_token(f"{role}-1", [role]) for role in ROLES}
        self.tokens = {role: token for role, (token, _) in made.items()}
        file = tmp_path / "tokens"
        file.write_text("\n".join(line for _, line in made.values()))
        file.chmod(0o600)
        self.folder = tmp_path / "log"
        self.audit = Audit(self.folder, tmp_path / "heads", signing_key())
        policy = Policy(host, tokens=file) if host == "0.0.0.0" else Policy(host)
        self.app = Access(application, policy, self.audit, lambda: {"lung-nodule"})

    def ask(self, path: str, *, method: str = "POST", headers: dict[str, str] | None = None, url: str = "http://127.0.0.1") -> httpx.Response:
        async def work() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=url) as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(work())

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line.split(" ", 1)[1]) for line in next(self.folder.glob("*.log")).read_text().splitlines()][1:]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    return Site(tmp_path)


def test_each_role_reaches_its_own_paths_and_no_other(site: Site) -> None:
    for path, role in itertools.product(PATHS, ROLES):
        reply = site.ask(path, headers={"Authorization": f"Bearer {site.tokens[role]}"})
        assert reply.status_code == (200 if role in PATHS[path] else 403), f"{role} {path}"
        assert needed(path)[0] == PATHS[path]


def test_without_a_token_only_probes_are_answered(site: Site) -> None:
    for path in ("/", "/v2/health/live", "/v2/health/ready"):
        assert site.ask(path, method="GET").text == "seen"
    for path in (*PATHS, "/v2/health/livex", "/v2/health/live/x"):
        reply = site.ask(path)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert reply.json()["error"] == "a bearer token is needed"


def test_each_request_is_one_line_with_who_what_and_how_it_ended(site: Site) -> None:
    site.ask("/v1/models/lung-nodule:predict", headers={"Authorization": f"Bearer {site.tokens[READER]}"})
    site.ask("/v1/models/miller-jonathan:predict", headers={"Authorization": f"Bearer {site.tokens[READER]}"})
    site.ask("/metrics", headers={"Authorization": f"Bearer {site.tokens[READER]}"})
    site.ask("/metrics?patient=miller", headers={"Authorization": "Bearer miller"})
    found = site.events()
    assert [(e["action"], e.get("who"), e.get("model"), e["status"]) for e in found] == [
        ("predict", "reader-1", "lung-nodule", 200),
        ("predict", "reader-1", None, 200),
        ("metrics", "reader-1", None, 403),
        ("metrics", None, None, 401),
    ]
    assert found[0]["request_id"] == "ab" * 16
    text = next(site.folder.glob("*.log")).read_text()
    assert "miller" not in text
    assert not any(token in text for token in site.tokens.values())


def test_a_cookie_serves_the_page_but_not_a_request_from_another_site(site: Site) -> None:
    cookie = {"Cookie": f"a=b; {COOKIE}={site.tokens[READER]}"}
    assert site.ask("/read", method="GET", headers=cookie).status_code == 200
    assert site.ask("/read/case/1", headers=cookie | {"Sec-Fetch-Site": "same-origin"}).status_code == 200
    for other in ("cross-site", "same-site"):
        assert site.ask("/read/case/1", headers=cookie | {"Sec-Fetch-Site": other}).status_code == 401


def test_on_loopback_pages_of_other_sites_neither_post_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    site = Site(tmp_path, "127.0.0.1")
    assert site.ask("/v1/models/lung-nodule:predict").status_code == 200
    assert site.ask("/v1/models/lung-nodule:predict", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 401
    for url in ("http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"):
        assert site.ask("/read", method="GET", url=url).status_code == 200
    assert site.ask("/read", method="GET", url="http://evil.example:8080").status_code == 421
