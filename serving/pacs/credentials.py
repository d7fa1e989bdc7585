"""Who asks the archive: name and password, or a token, out of the environment. Never an argument: those show in the list of processes."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping

import httpx

from components.core.errors import SpecError
from components.core.secret import secret

USER, PASSWORD, TOKEN = "DXFLOW_PACS_USER", "DXFLOW_PACS_PASSWORD", "DXFLOW_PACS_TOKEN"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def credentials(url: httpx.URL, environment: Mapping[str, str] = os.environ) -> httpx.Auth | None:
    """What the environment holds, or None.

    Raises:
        SpecError: Half of a pair, both kinds, or a secret that would cross a network in the clear.
    """
    user, password, token = (secret(name, environment) for name in (USER, PASSWORD, TOKEN))
    if (user is None) != (password is None):
        raise SpecError("user or password is missing", where=f"{USER}, {PASSWORD}", allowed="both, or none")
    if user is not None and token is not None:
        raise SpecError("user and token", where=f"{USER}, {TOKEN}", allowed="one of them")
    found = httpx.BasicAuth(user, str(password)) if user is not None else Bearer(token) if token is not None else None
    if found is not None and url.scheme != "https" and url.host not in LOOPBACK:
        raise SpecError("credentials would cross the network unencrypted", where="--url", allowed="https, or an address of this machine")
    return found
