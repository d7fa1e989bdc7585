"""A DICOMweb server as the loop uses it: QIDO-RS, WADO-RS and STOW-RS, each answer bounded in size and time, no redirect followed.

No message holds a value of an answer or a UID: both may name people. httpx rather than dicomweb-client, which reads answers of any size.

Source:
    DICOM PS3.18 sections 10.4 (retrieve), 10.5 (store), 10.6 (search).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx

from components.core.errors import DataError, ServiceError, SpecError
from serving.pacs.credentials import credentials
from serving.pacs.multipart import DICOM, boundary_of, joined, split

PAGE, PAGES = 200, 1000
JSON_BYTES, SERIES_BYTES = 64 << 20, 2 << 30
JSON_TYPE = "application/dicom+json"
UID = re.compile(r"[0-9.]{1,64}")
TOO_MANY = 429
Tags = Mapping[str, Any]
"""One data set in the DICOM JSON model: tag as 8 hexadecimal digits -> {vr, Value}."""


class Refused(DataError):
    """The archive does not take what it is sent, and would not take it next time either."""


@dataclass(frozen=True)
class Listed:
    """A study of the archive. Counts are None where the archive does not tell."""

    uid: str
    patient: str
    modalities: frozenset[str]
    series: int | None
    images: int | None


class DicomWeb:
    """A client of one archive.

    Args:
        url: Root of its services, e.g. https://pacs.example/dicom-web.
        ca: File with the certificates to trust; None for the system's.
        timeout_s: Longest silence within an answer.

    Raises:
        SpecError: Not an address, or credentials that would go in the clear.
    """

    def __init__(self, url: str, *, ca: Path | None = None, timeout_s: float = 60.0) -> None:
        try:
            root = httpx.URL(url.rstrip("/") + "/")
        except httpx.InvalidURL:
            root = httpx.URL("")
        if root.scheme not in ("http", "https") or not root.host or root.userinfo or root.query:
            raise SpecError("not an address of a DICOMweb server", where="--url", allowed="http(s)://host/path, credentials in the environment")
        self.where = f"PACS {root.host}"
        self._http = httpx.Client(
            base_url=root, auth=credentials(root), timeout=httpx.Timeout(timeout_s, connect=10.0), follow_redirects=False, trust_env=False,
            verify=_trusted(ca), limits=httpx.Limits(max_connections=2),
        )  # fmt: skip

    def close(self) -> None:
        self._http.close()

    def studies(self, since: date | None) -> Iterator[Listed]:
        """The studies dated `since` or later; all for None."""
        dates = [("StudyDate", f"{since:%Y%m%d}-")] if since else []
        fields = [("includefield", tag) for tag in ("00201206", "00201208", "00080061")]
        for row in self._search("studies", [*dates, *fields], key="0020000D"):
            yield Listed(
                uid=text(row, "0020000D"), patient=text(row, "00100020"), modalities=frozenset(texts(row, "00080061")),
                series=number(row, "00201206"), images=number(row, "00201208"),
            )  # fmt: skip

    def series(self, study: str) -> list[Tags]:
        """Each series of a study, with its modality and number of images."""
        return list(self._search(f"studies/{uid(study)}/series", [("includefield", "00201209"), ("includefield", "00080060")], key="0020000E"))

    def metadata(self, study: str, series: str) -> list[Tags]:
        """Headers of all images of a series, without pixels."""
        return self._json("GET", f"studies/{uid(study)}/series/{uid(series)}/metadata")

    def images(self, study: str, series: str, instance: str | None = None) -> list[bytes]:
        """The files of a series, or one of them.

        Raises:
            DataError: More than `SERIES_BYTES`.
        """
        path = f"studies/{uid(study)}/series/{uid(series)}" + (f"/instances/{uid(instance)}" if instance else "")
        accept = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
        body, content_type = self._ask("GET", path, {"Accept": accept, "Accept-Encoding": "identity"}, most=SERIES_BYTES)
        return split(body, boundary_of(content_type))

    def held(self, study: str, instances: Iterable[str]) -> frozenset[str]:
        """Which of these objects the study already has."""
        found = set()
        for instance in instances:
            rows = self._json("GET", f"studies/{uid(study)}/instances", [("SOPInstanceUID", uid(instance)), ("includefield", "00080018")])
            if any(text(row, "00080018") == instance for row in rows):
                found.add(instance)
        return frozenset(found)

    def store(self, study: str, files: Sequence[bytes]) -> None:
        """Put objects into a study.

        Raises:
            Refused: It takes not all of them.
        """
        body, content_type = joined(files)
        answer, _ = self._ask("POST", f"studies/{uid(study)}", {"Accept": JSON_TYPE, "Content-Type": content_type}, content=body)
        try:
            document = json.loads(answer) if answer else {}
            failures = [text(item, "00081197") for item in (document.get("00081198") or {}).get("Value", [])]
        except (ValueError, AttributeError, TypeError):
            raise ServiceError("answers to STOW-RS with something else than DICOM JSON", where=self.where) from None
        if failures:
            reasons = ", ".join(sorted({reason if reason.isdigit() else "?" for reason in failures}))
            raise Refused("the archive refuses objects", where=self.where, got=f"{len(failures)} of {len(files)}, failure reason {reasons}")

    def _search(self, path: str, parameters: Sequence[tuple[str, str]], *, key: str) -> Iterator[Tags]:
        """All rows, page by page, each value of `key` once; ends where a page brings nothing new."""
        seen: set[str] = set()
        for page in range(PAGES):
            rows = self._json("GET", path, [*parameters, ("limit", str(PAGE)), ("offset", str(page * PAGE))])
            fresh = [row for row in rows if UID.fullmatch(text(row, key)) and text(row, key) not in seen]
            seen.update(text(row, key) for row in fresh)
            yield from fresh
            if len(rows) < PAGE or not fresh:
                return

    def _json(self, method: str, path: str, parameters: Sequence[tuple[str, str]] = ()) -> list[Tags]:
        body, _ = self._ask(method, path, {"Accept": JSON_TYPE}, parameters=parameters)
        try:
            found = json.loads(body) if body else []
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise ServiceError("answers with something else than DICOM JSON", where=self.where)
        return found

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], *, parameters: Sequence[tuple[str, str]] = (), content: bytes | None = None,
        most: int = JSON_BYTES,
    ) -> tuple[bytearray, str]:  # fmt: skip
        body = bytearray()
        try:
            with self._http.stream(method, path, headers=dict(headers), params=list(parameters), content=content) as response:
                self._judge(response.status_code)
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > most:
                        raise DataError("an answer of the archive is over the limit", where=self.where, allowed=f"{most >> 20} MB")
                return body, response.headers.get("content-type", "")
        except httpx.HTTPError as error:
            raise ServiceError("cannot be reached", where=self.where, got=type(error).__name__) from None

    def _judge(self, status: int) -> None:
        if 200 <= status < 300:
            return
        if status in (401, 403):
            raise ServiceError("refuses the credentials", where=self.where, got=f"HTTP {status}", allowed="DXFLOW_PACS_USER and _PASSWORD, or _TOKEN")
        if 300 <= status < 400:
            raise ServiceError("redirects, which is not followed", where=self.where, got=f"HTTP {status}", allowed="the final address as --url")
        if status >= 500 or status == TOO_MANY:
            raise ServiceError("cannot answer now", where=self.where, got=f"HTTP {status}")
        raise Refused("refuses a request", where=self.where, got=f"HTTP {status}")


def _trusted(ca: Path | None) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError):
        raise SpecError("not a file of certificates", where="--ca", got=str(ca), allowed="PEM") from None


def uid(value: str) -> str:
    """A UID that may stand in a path. Raises DataError."""
    if not UID.fullmatch(value):
        raise DataError("not a UID", where="PACS")
    return value


def texts(row: Tags, tag: str) -> list[str]:
    """Values of an element as texts; names and sequences give nothing."""
    element = row.get(tag)
    values = element.get("Value", []) if isinstance(element, Mapping) else []
    return [str(v).strip() for v in values if isinstance(v, str | int | float)] if isinstance(values, list) else []


def text(row: Tags, tag: str) -> str:
    return next(iter(texts(row, tag)), "")


def number(row: Tags, tag: str) -> int | None:
    value = text(row, tag)
    return int(value) if value.isdigit() and len(value) < 10 else None
