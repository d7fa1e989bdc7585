"""Ask a running server about one file of any kind that it takes, or about one that it fetches itself.

A server on this machine is asked directly, whatever proxies the environment names: a patient's picture leaves for nobody else. Elsewhere the
environment's proxy is used, and an error names it.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.core.errors import DataError, DxflowError, ServiceError, SpecError
from components.core.package import SYNTHETIC
from components.core.secret import secret
from serving.handles import HEADERS, quoted
from serving.kinds import HEAD, TAKEN, sniffed
from serving.openapi import is_loopback
from serving.options import MAX_BODY_BYTES

DEVICE_HEADER = HEADERS["device"]
NPY = b"\x93NUMPY"
KINDS = f"{TAKEN} or .npy, by its first bytes"
JSON = {"Content-Type": "application/json"}
UNTAKEN = (400, 413, 415, 422)
POINTS = ("row", "column", "window", "mpp")


class Refused(DataError):
    """The server answers, and does not take what was sent: another file or another sample it may take."""


def predict(
    url: str, model: str, file: Path | str, row: float | None = None, column: float | None = None, timeout_s: float = 30.0,
    window: int | None = None, mpp: float | None = None, *, device: str | None = None, headers: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Send a file, or the name of one, by protocol v1.

    Args:
        url: Of the server, e.g. http://127.0.0.1:8080.
        model: A disease; `synthetic/<disease>` is taken too.
        file: DICOM, a picture (JPEG, PNG, TIFF, BMP, PGM, PPM, WebP), NIfTI or CSV, told by its first bytes; an array in a `.npy` file; or, with
            ://, a reference that the server fetches (`s3://bucket/key`, a DICOMweb address).
        row, column: Point of interest in pixels of the image, for diseases that look at a patch.
        window: Of a recording, from 0; None: all.
        mpp: Microns of a pixel, for slides that do not say it.
        device: What the hospital calls the device, for files that do not name theirs; the server hashes it.
        headers: More of them, for a file.

    Returns:
        The answers as `serving/predictor.py` describes them, with `request_id`: several where the file holds several samples.

    Raises:
        DataError: The file; `Refused`: the server does not take it. SpecError: No such model there. ServiceError: No server, or it fails.
    """
    given = {name: value for name, value in zip(POINTS, (row, column, window, mpp), strict=True) if value is not None}
    if "://" in str(file):
        named = {"device": device} if device is not None else {}
        document = {"instances": [{"reference": str(file), **given, **named}]}
        return ask(url, model, json.dumps(document).encode(), JSON, timeout_s)
    own = dict(headers or {}) | {f"X-Dxflow-{name.title()}": repr(value) for name, value in given.items()}
    body, kind = _body(Path(file), device)
    if device is not None and kind != JSON:  # in JSON the body says it
        own[DEVICE_HEADER] = quoted(device, "--device")
    return ask(url, model, body, own | kind, timeout_s)


def served(url: str, model: str, timeout_s: float) -> None:
    """Ask whether the server is there and has the model, before anything is read for it; errors as `predict`."""
    with _reply(urllib.request.Request(f"{url.rstrip('/')}/v1/models", headers=_who(url)), model, url, timeout_s) as reply:  # noqa: S310
        try:
            names = json.load(reply)["models"]
        except (ValueError, KeyError, TypeError):
            raise ServiceError("no answer of a dxflow server", where=url) from None
    if model.removeprefix(SYNTHETIC) not in names:
        raise SpecError(
            "no such model at the server", where="--model", got=f"'{model}'", allowed=", ".join(sorted(map(str, names))) or "none is ready"
        )


def ask(url: str, model: str, body: bytes, headers: dict[str, str], timeout_s: float) -> list[dict[str, Any]]:
    """The answers to one v1 request; errors as `predict`. Who asks says `DXFLOW_TOKEN`, where the server wants to know."""
    headers = headers | _who(url)
    name = urllib.parse.quote(model.removeprefix(SYNTHETIC), safe="")
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/models/{name}:predict", data=body, headers=headers)  # noqa: S310 - checked above
    with _reply(request, model, url, timeout_s) as reply:
        return list(json.load(reply)["predictions"])


def _who(url: str) -> dict[str, str]:
    """Raises SpecError for what is no address, or no token."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise SpecError("not the address of a server", where="--url", allowed="http:// or https://")
    token = secret("DXFLOW_TOKEN") or ""
    if not token.isascii() or not token.isprintable():
        raise SpecError("not a token", where="DXFLOW_TOKEN", allowed="what dxflow token prints, or one of the OpenID provider")
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def _reply(request: urllib.request.Request, model: str, url: str, timeout_s: float) -> Iterator[Any]:
    """The server's reply, which is read within the block; what goes wrong becomes one line."""
    proxy = proxy_of(url)
    opener = urllib.request.build_opener(*(() if proxy else (urllib.request.ProxyHandler({}),)))
    try:
        with opener.open(request, timeout=timeout_s) as reply:
            yield reply
    except urllib.error.HTTPError as error:
        raise _refusal(error, model, url) from None
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        through = f" through the proxy {proxy} that the environment names" if proxy else ""
        raise ServiceError(f"no answer from the server{through}", where=url, got=reason) from None


def proxy_of(url: str) -> str | None:
    """Host and port of the proxy that the environment names for this address; None where there is none, or the server is on this machine."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    named = urllib.request.getproxies().get(parts.scheme)  # not ALL_PROXY, which urllib does not follow
    return named.rpartition("@")[2].rpartition("//")[2].rstrip("/") if named else None  # never a name and password


def _body(file: Path, device: str | None) -> tuple[bytes, dict[str, str]]:
    try:
        if file.stat().st_size > MAX_BODY_BYTES:  # not even read here
            allowed = f"{MAX_BODY_BYTES >> 20} MB in a request; what is larger goes by reference, s3://bucket/key"
            raise DataError("larger than a server takes", where=str(file), got=f"{file.stat().st_size >> 20} MB", allowed=allowed)
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", where=str(file)) from None
    if data.startswith(NPY):
        import io

        import numpy as np

        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError):
            raise DataError("a damaged .npy file", where=str(file)) from None
        return json.dumps({"instances": [{"array": array.tolist()} | ({} if device is None else {"device": device})]}).encode(), JSON
    kind = sniffed(data[:HEAD])
    if not kind:
        raise DataError("not a file that a server takes", where=str(file), allowed=KINDS)
    return data, {"Content-Type": kind}


def _refusal(error: urllib.error.HTTPError, model: str, url: str) -> DxflowError:
    try:
        text = str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError, OSError):
        text = f"HTTP {error.code}"
    if error.code == 401:
        text = f"{text}; allowed: DXFLOW_TOKEN"
    if error.code == 404:
        return SpecError("no such model at the server", where="--model", got=f"'{model}'", allowed=f"one that {url}/v1/models lists")
    for name in POINTS:  # the server knows the header, our user the option
        text = text.replace(f"header X-Dxflow-{name.title()}", f"--{name}")
    text = text.replace(f"header {DEVICE_HEADER}", "--device")
    if error.code in UNTAKEN:
        return Refused(text)
    return DataError(text) if error.code < 500 else ServiceError(text, where=url)
