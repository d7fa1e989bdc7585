"""From what a client sent to samples, or one line that names the field that is wrong. No line quotes a value out of a request.

file (the raw body, base64 in JSON, an element of a BYTES tensor, or by reference)
        decoded and de-identified by the code that ingest uses: `serving/bodies/`, one module for each format
numbers (nested lists, or an FP32 tensor)
        in the spec's unit, on the spec's grid; in v1 with the keyed hashes, figures and vocabulary names that a DICOM file would have
        told
either  with what is told of the patient (`serving/covariates.py`); it goes before what a DICOM header tells; and with what the hospital calls
        device, patient and study (`serving/handles.py`)
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import acquisition
from components.core.errors import DataError
from components.core.pseudonym import UNKNOWN_DEVICE, Pseudonymiser
from components.core.spec import DiseaseSpec
from serving import bodies, covariates, handles, told_words
from serving.bodies.body import MOST_WINDOWS, Body
from serving.kinds import DICOM
from serving.nested_numbers import array_of
from serving.predictor import Query

MAX_SAMPLES = 256
DEVICE_KEY = re.compile(r"[0-9a-f]{16}")
FORMS = (
    "{file_base64, content_type, row, column, window, mpp}, {dicom_base64, row, column}, {reference, ...} or "
    "{array, manufacturer, device_model, patient_key, software_key, acquisition}, each with device or device_key, patient, study"
)
POINTS = ("row", "column", "window")
FILE_KEYS = {
    "dicom_base64": {"dicom_base64", *POINTS},
    "file_base64": {"file_base64", "content_type", *POINTS, "mpp"},
    "reference": {"reference", *POINTS, "mpp"},
}
ARRAY_KEYS = {"array", "manufacturer", "device_model", "patient_key", "software_key", "acquisition"}
HEADERS = ("X-Dxflow-Row", "X-Dxflow-Column", "X-Dxflow-Window")
MPP_HEADER = "X-Dxflow-Mpp"
MICRONS = "microns of a pixel"
OF_FILES = (*HEADERS, MPP_HEADER, *handles.HEADERS.values(), handles.KEY_HEADER, covariates.HEADER)
"""Headers that say something of a body that is a file; in JSON and in protocol v2 the same stands in the body."""
UNIT = {"row": "pixels", "column": "pixels", "window": "a whole number from 0"}

Fetched = Mapping[int, Path]
"""By number of the instance, where the file or the folder lies that its reference names."""


def from_document(document: Any, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, fetched: Fetched | None = None) -> list[Query]:
    """Samples of a v1 JSON body, `{"instances": [...]}`. Raises DataError."""
    instances = instances_of(document)
    return _joined(
        (_from_instance(instance, f"instances[{n}]", spec, pseudonymiser, (fetched or {}).get(n)) for n, instance in enumerate(instances)),
        "instances", files=len(instances),
    )  # fmt: skip


def instances_of(document: Any) -> list[Any]:
    """The list of a v1 JSON body. Raises DataError."""
    if not isinstance(document, Mapping) or not isinstance(document.get("instances"), list):
        raise DataError("missing or not a list", where="instances", allowed=f"a list of {FORMS}")
    _check_number(len(document["instances"]), "instances")
    return document["instances"]


def _from_instance(whole: Any, where: str, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, fetched: Path | None) -> list[Query]:
    instance, told = covariates.apart(whole, where, spec)
    named = handles.Handles()
    if isinstance(instance, Mapping):
        instance, named = handles.of_fields(instance, where, pseudonymiser)
    found = _samples(instance, where, spec, pseudonymiser, fetched, named.device)
    return [named.onto(replace(query, covariates={**query.covariates, **told})) for query in found]


def _samples(instance: Any, where: str, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, fetched: Path | None, device: str | None) -> list[Query]:
    forms = [name for name in ("array", *FILE_KEYS) if isinstance(instance, Mapping) and name in instance]
    if len(forms) != 1:
        raise DataError("not a sample", where=where, allowed=FORMS)
    form = forms[0]
    allowed = FILE_KEYS.get(form, ARRAY_KEYS)
    if extra := len(set(instance) - allowed):
        raise DataError("unknown keys", where=where, got=f"{extra} of them", allowed=", ".join(sorted({*allowed, *handles.NAMES, handles.KEY})))
    if form == "array":
        query = from_array(array_of(instance["array"], f"{where}.array", math.prod(spec.input.shape)), device, spec, where=where)
        patient, software = (_keyed(instance.get(name), f"{where}.{name}") for name in ("patient_key", "software_key"))
        words = {name: told_words.word(name, instance.get(name), pseudonymiser, f"{where}.{name}") for name in ("manufacturer", "device_model")}
        known = _acquisition(instance.get("acquisition"), spec.input.modality, pseudonymiser, f"{where}.acquisition")
        return [replace(query, patient=patient, software=software, acquisition=known, **words)]
    if form == "reference":
        if fetched is None:
            raise DataError("not offered by this server", where=f"{where}.reference")
        content: bytes | Path = fetched
        kind = None
    else:
        content = _base64(instance[form], f"{where}.{form}")
        kind = DICOM if form == "dicom_base64" else _kind(instance.get("content_type"), f"{where}.content_type")
    names = (f"{where}.row", f"{where}.column", f"{where}.window")
    row, column, window = (_number(instance.get(name), place, UNIT[name]) for name, place in zip(POINTS, names, strict=True))
    mpp = _number(instance.get("mpp"), f"{where}.mpp", MICRONS)
    body = Body(content, f"{where}.{form}", names, row, column, _index(window, names[2]), device, mpp)
    return bodies.read(kind, body, spec, pseudonymiser)


def check_headers(headers: Mapping[str, str]) -> None:
    """Of a request whose body says all of it itself: what a header said beside it would be lost. Raises DataError. Args: headers: Names in lower
    case."""
    if told := [name for name in OF_FILES if name.lower() in headers]:
        raise DataError("only beside a body that is a file", where=f"header {told[0]}", allowed="the same in the body, as a field or a parameter")


def from_raw(data: bytes, headers: Mapping[str, str], spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """The samples of a body that is one file; where to look, and the device, in headers. Raises DataError."""
    names = (f"header {HEADERS[0]}", f"header {HEADERS[1]}", f"header {HEADERS[2]}")
    row, column, window = (_header_number(headers, name, UNIT[what]) for name, what in zip(HEADERS, POINTS, strict=True))
    named = handles.of_headers(headers, pseudonymiser)
    told = covariates.of_header(headers, spec)
    mpp = _header_number(headers, MPP_HEADER, MICRONS)
    body = Body(data, "body", names, row, column, _index(window, names[2]), named.device, mpp)
    found = bodies.read(headers.get("content-type", ""), body, spec, pseudonymiser)
    return [named.onto(replace(query, covariates={**query.covariates, **told})) for query in found]


def from_array(array: NDArray[Any], device_key: Any, spec: DiseaseSpec, *, where: str) -> Query:
    """One sample that a client has already cut and converted to the unit. Raises DataError."""
    shape = tuple(spec.input.shape)
    if array.shape != shape:
        raise DataError("another shape", where=f"{where}.array", got=list(array.shape), allowed=list(shape))
    if not np.isfinite(array).all():
        raise DataError("values that are not finite", where=f"{where}.array", got=f"{int((~np.isfinite(array)).sum())} of {array.size}")
    if device_key is None:
        device_key = UNKNOWN_DEVICE
    elif not isinstance(device_key, str) or not (DEVICE_KEY.fullmatch(device_key) or device_key == UNKNOWN_DEVICE):
        raise DataError("not a device key", where=f"{where}.device_key", allowed="16 hexadecimal characters")
    return Query(array=array, device_key=device_key, source="array")


def from_tensor(
    shape: Any, datatype: str, data: Any, raw: bytes | None, parameters: Mapping[str, Any], spec: DiseaseSpec, pseudonymiser: Pseudonymiser
) -> list[Query]:
    """Samples of a v2 tensor: FP32 [n, *input.shape], from JSON numbers or little-endian bytes; or BYTES [n], one file an element.

    Args:
        parameters: Of the tensor and the request: `device` or `device_key`, `patient`, `study`, and for files `content_type`, `row`, `column`,
            `window`, `mpp`.

    Raises:
        DataError: Names the field.
    """
    where = "inputs[0]"
    parameters, named = handles.of_fields(parameters, f"{where}.parameters" if datatype == "BYTES" else where, pseudonymiser)
    if datatype == "BYTES":
        return [named.onto(query) for query in _from_files(shape, data, raw, parameters, spec, pseudonymiser, named.device)]
    wanted = ["n", *spec.input.shape]
    if datatype != "FP32":
        raise DataError("another datatype", where=f"{where}.datatype", allowed="FP32, BYTES")
    if not _is_shape(shape) or len(shape) != len(wanted):
        raise DataError("another shape", where=f"{where}.shape", got=f"{len(shape) if isinstance(shape, list) else 0} axes", allowed=wanted)
    if tuple(shape[1:]) != tuple(spec.input.shape):
        raise DataError("another shape", where=f"{where}.shape", got=shape, allowed=wanted)
    _check_number(shape[0], f"{where}.shape")
    size = math.prod(shape)
    if raw is not None:
        if len(raw) != 4 * size:
            raise DataError("another number of bytes than its shape", where=f"{where}.data", got=len(raw), allowed=4 * size)
        values = np.frombuffer(raw, dtype="<f4")
    else:
        values = array_of(data, f"{where}.data", size)
        if values.size != size:
            raise DataError("another number of values than its shape", where=f"{where}.data", got=values.size, allowed=size)
    return [named.onto(from_array(sample, named.device, spec, where=where)) for sample in values.reshape(shape)]


def _from_files(
    shape: Any, data: Any, raw: bytes | None, parameters: Mapping[str, Any], spec: DiseaseSpec, pseudonymiser: Pseudonymiser,
    device: str | None,
) -> list[Query]:  # fmt: skip
    where = "inputs[0]"
    if not _is_shape(shape) or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise DataError("another shape", where=f"{where}.shape", allowed="[n] or [n, 1]: one file an element")
    _check_number(shape[0], f"{where}.shape")
    if raw is None:
        elements = [e for one in data for e in (one if isinstance(one, list) else [one])] if isinstance(data, list) else []
        contents = [one if isinstance(one, bytes) else _base64(one, f"{where}.data") for one in elements]
    else:
        contents = _elements(raw, f"{where}.data", shape[0])
    if len(contents) != shape[0]:
        raise DataError("another number of elements than its shape", where=f"{where}.data", got=len(contents), allowed=shape[0])
    names = (f"{where}.parameters.row", f"{where}.parameters.column", f"{where}.parameters.window")
    row, column, window = (_number(parameters.get(name), place, UNIT[name]) for name, place in zip(POINTS, names, strict=True))
    kind = _kind(parameters.get("content_type"), f"{where}.parameters.content_type")
    mpp = _number(parameters.get("mpp"), f"{where}.parameters.mpp", MICRONS)
    files = (Body(content, f"{where}.data[{n}]", names, row, column, _index(window, names[2]), device, mpp) for n, content in enumerate(contents))
    return _joined((bodies.read(kind, body, spec, pseudonymiser) for body in files), f"{where}.data", files=len(contents))


def _elements(raw: bytes, where: str, most: int) -> list[bytes]:
    """The elements of a binary BYTES tensor: each four bytes of length, little-endian, then so many bytes."""
    found: list[bytes] = []
    here = 0
    while here < len(raw):
        size = int.from_bytes(raw[here : here + 4], "little")
        if here + 4 + size > len(raw) or here + 4 > len(raw):
            raise DataError("an element that is longer than the tensor", where=where)
        if len(found) == most:
            raise DataError("more elements than its shape", where=where, allowed=most)
        found.append(raw[here + 4 : here + 4 + size])
        here += 4 + size
    return found


def _joined(parts: Iterable[list[Query]], where: str, *, files: int) -> list[Query]:
    """The samples of several files in order; where there are several, each sample of a part says of which file it is."""
    found: list[Query] = []
    for n, queries in enumerate(parts):
        found += [replace(q, part={"file": n, **q.part}) if q.part is not None and files > 1 else q for q in queries]
        if len(found) > MOST_WINDOWS:
            raise DataError("too many samples", where=where, allowed=f"{MOST_WINDOWS} in one request")
    return found


def _base64(value: Any, where: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise DataError("not base64", where=where) from None


def _kind(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError("not a content type", where=where)
    return value


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(isinstance(size, int) and not isinstance(size, bool) for size in shape)


def _keyed(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not DEVICE_KEY.fullmatch(value):
        raise DataError("not a keyed hash", where=where, allowed="16 hexadecimal characters")
    return value


def _acquisition(value: Any, modality: str, pseudonymiser: Pseudonymiser, where: str) -> dict[str, Any]:
    """Acquisition parameters by the names of `components/core/acquisition.py`: numbers that can be, and the words that `told_words.py` knows.

    A name of another's own making would be a column of the log and free text in it: it is refused, counted and not repeated.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError("not acquisition parameters", where=where, allowed="{name: value}")
    if strange := len(value) - sum(acquisition.named(name) for name in value):
        allowed = ", ".join(acquisition.names_of(modality))
        raise DataError("not names of acquisition parameters", where=where, got=f"{strange} unknown", allowed=f"acq_<name>: {allowed}")
    told: dict[str, Any] = {}
    for name, v in value.items():
        if name in told_words.KNOWN:
            told[name] = told_words.word(name, v, pseudonymiser, where)
        elif isinstance(v, bool) or not isinstance(v, int | float):
            raise DataError("not numbers", where=where, got=name, allowed=f"numbers; words only for {', '.join(told_words.ACQUISITION)}")
        elif not acquisition.possible(name, v):
            one = acquisition.PARAMETERS[name]
            low, high = one.possible or (0, 0)
            raise DataError("a value that cannot be", where=where, got=name, allowed=f"{low:,} to {high:,} {one.unit}".strip())
        else:
            told[name] = float(v)
    return told


def _number(value: Any, where: str, unit: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9 or not math.isfinite(value):
        raise DataError("not a number", where=where, allowed=unit)
    return float(value)


def _index(value: float | None, where: str) -> int | None:
    if value is None:
        return None
    if value < 0 or value != int(value):
        raise DataError("not a number", where=where, allowed=UNIT["window"])
    return int(value)


def _header_number(headers: Mapping[str, str], name: str, unit: str) -> float | None:
    text = headers.get(name.lower())
    if text is None:
        return None
    try:
        return _number(float(text), f"header {name}", unit)
    except ValueError:
        raise DataError("not a number", where=f"header {name}", allowed=unit) from None


def _check_number(n: int, where: str) -> None:
    if not 1 <= n <= MAX_SAMPLES:
        raise DataError("number of samples out of range", where=where, got=n, allowed=f"1 to {MAX_SAMPLES}")
