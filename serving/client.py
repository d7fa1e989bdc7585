"""Ask a running server about one file, whatever kind of file it is."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from components.core.errors import DataError, DxflowError, ServiceError, SpecError
from components.core.package import SYNTHETIC
from serving.kinds import HEAD, sniffed

NPY = b"\x93NUMPY"
KINDS = "DICOM, PNG, JPEG, TIFF, NIfTI, CSV or .npy, by its first bytes"


def predict(url: str, model: str, file: Path, row: float | None, column: float | None, timeout_s: float) -> list[dict[str, Any]]:
    """Send a file as what its first bytes say, or the array of a `.npy` file, by protocol v1.

    Args:
        url: Of the server, e.g. http://127.0.0.1:8080.
        model: A disease; `synthetic/<disease>` is taken too.
        row, column: Point of interest in pixels of the image, for diseases that look at a patch.

    Returns:
        The answers as `serving/predictor.py` describes them, with `request_id`: one, or of a table or a recording one for each row or window.

    Raises:
        DataError: The file, or the server refuses it. SpecError: No such model there. ServiceError: No server, or it fails.
    """
    return ask(url, model, *_body(Path(file), row, column), timeout_s)


def ask(url: str, model: str, body: bytes, headers: dict[str, str], timeout_s: float) -> list[dict[str, Any]]:
    """The answers to one v1 request; errors as `predict`."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise SpecError("not the address of a server", where="--url", allowed="http:// or https://")
    name = urllib.parse.quote(model.removeprefix(SYNTHETIC), safe="")
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/models/{name}:predict", data=body, headers=headers)  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:  # noqa: S310
            return list(json.load(reply)["predictions"])
    except urllib.error.HTTPError as error:
        raise _refusal(error, model, url) from None
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise ServiceError("no answer from the server", where=url, got=reason) from None


def _body(file: Path, row: float | None, column: float | None) -> tuple[bytes, dict[str, str]]:
    try:
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
        return json.dumps({"instances": [{"array": array.tolist()}]}).encode(), {"Content-Type": "application/json"}
    kind = sniffed(data[:HEAD])
    if not kind:
        raise DataError("not a file that a server takes", where=str(file), allowed=KINDS)
    headers = {"Content-Type": kind}
    for name, value in (("X-Dxflow-Row", row), ("X-Dxflow-Column", column)):
        if value is not None:
            headers[name] = repr(float(value))
    return data, headers


def _refusal(error: urllib.error.HTTPError, model: str, url: str) -> DxflowError:
    try:
        text = str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError, OSError):
        text = f"HTTP {error.code}"
    if error.code == 404:
        return SpecError("no such model at the server", where="--model", got=f"'{model}'", allowed=f"one that {url}/v1/models lists")
    return DataError(text) if error.code < 500 else ServiceError(text, where=url)
