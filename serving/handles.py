"""What a hospital calls a device, a patient and a study, as a client sends it: words, hashed under the server's key before anything else is done with
them, exactly as ingest hashes the same word of a table. So a device is the one of training, and `dxflow erase` finds the patient.

    header X-Dxflow-Device, X-Dxflow-Patient, X-Dxflow-Study      of a body that is a file, UTF-8; a word in double quotes is the same word
    device, patient, study                                        of a v1 instance, or parameters of a v2 tensor or request

Who has ingest's own hash sends that: `device_key` in JSON and parameters, the header X-Dxflow-Device-Key. No line repeats a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from components.core.errors import DataError
from components.core.imaging.deidentify import device_identity
from components.core.pseudonym import UNKNOWN_DEVICE, Pseudonymiser

if TYPE_CHECKING:
    from serving.predictor import Query

NAMES = ("device", "patient", "study")
HEADERS = {"device": "X-Dxflow-Device", "patient": "X-Dxflow-Patient", "study": "X-Dxflow-Study"}
KEY_HEADER = "X-Dxflow-Device-Key"
KEY = "device_key"
HASHED = re.compile(r"[0-9a-f]{16}")
MOST = 200
WORD = f"a text of 1 to {MOST} characters, none of them a control character"


@dataclass(frozen=True)
class Handles:
    """Keyed hashes of what was told; None where it was not.

    Args:
        names: What the request calls the fields, for errors.
    """

    device: str | None = None
    patient: str | None = None
    study: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def onto(self, query: Query) -> Query:
        """The sample with patient and study. Raises DataError where its file names another one: erasing either would leave the other."""
        told = {name: value for name, value in (("patient", self.patient), ("study", self.study)) if value is not None}
        for name, value in told.items():
            if getattr(query, name) not in (None, value):
                raise DataError(f"another {name} than the sample's own", where=self.names[name], allowed="the same, or none")
        return replace(query, **told) if told else query


def of_headers(headers: Mapping[str, str], pseudonymiser: Pseudonymiser) -> Handles:
    """Args: headers: Names in lower case, bytes as latin-1, as HTTP has them. Raises DataError."""
    told: dict[str, Any] = {}
    for name, header in HEADERS.items():
        text = headers.get(header.lower())
        if text is None:
            continue
        where = f"header {header}"
        try:
            text = text.encode("latin-1").decode("utf-8").strip()
        except UnicodeError:
            raise DataError("not UTF-8", where=where) from None
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1]
        elif name == "device" and HASHED.fullmatch(text):
            raise DataError("a word or a keyed hash?", where=where, allowed=f'a hash as {KEY_HEADER}, a word of 16 hexadecimal digits in "..."')
        told[name] = text
    if (key := headers.get(KEY_HEADER.lower())) is not None:
        told[KEY] = key.strip()
    return _hashed(told, pseudonymiser, {name: f"header {header}" for name, header in (*HEADERS.items(), (KEY, KEY_HEADER))})


def of_fields(fields: Mapping[str, Any], where: str, pseudonymiser: Pseudonymiser) -> tuple[dict[str, Any], Handles]:
    """The fields without the handles, and these; `device_key` is taken out with them. Raises DataError."""
    told = {name: fields[name] for name in (*NAMES, KEY) if fields.get(name) is not None}
    rest = {name: value for name, value in fields.items() if name not in (*NAMES, KEY)}
    return rest, _hashed(told, pseudonymiser, {name: f"{where}.{name}" for name in (*NAMES, KEY)})


def quoted(word: str, where: str) -> str:
    """A word as a header's value for `urllib`, so that `of_headers` reads the same word. Raises DataError where it cannot be one."""
    return f'"{checked(word, where)}"'.encode().decode("latin-1")


def checked(value: Any, where: str) -> str:
    """A word without blanks around it. Raises DataError."""
    text = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(text) <= MOST or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text):
        raise DataError("not a word", where=where, allowed=WORD)
    return text


def _hashed(told: Mapping[str, Any], pseudonymiser: Pseudonymiser, names: Mapping[str, str]) -> Handles:
    if "device" in told and KEY in told:
        raise DataError("the device twice", where=names["device"], allowed=f"a word, or its keyed hash as {names[KEY].removeprefix('header ')}")
    found: dict[str, str | None] = {}
    if "device" in told:
        found["device"] = device_identity(pseudonymiser, key=(checked(told["device"], names["device"]),)).key
    elif KEY in told:
        key = told[KEY]
        if not isinstance(key, str) or not (HASHED.fullmatch(key) or key == UNKNOWN_DEVICE):
            raise DataError("not a device key", where=names[KEY], allowed="16 hexadecimal characters; the device's own name goes as device")
        found["device"] = key
    if found.get("device") == UNKNOWN_DEVICE:  # says no more than nothing does, and less than a camera's own name
        found["device"] = None
    for name in ("patient", "study"):
        if name in told:
            found[name] = pseudonymiser.id(name, checked(told[name], names[name]))
    return Handles(**found, names=names)
