"""From what a client sent to samples, or one line that names the field that is wrong. No line quotes a value out of a request.

DICOM file (bytes, or base64 in JSON)   decoded and de-identified by the code that ingest uses
array (nested lists, or an FP32 tensor) in the spec's unit, on the spec's grid; in v1 with the keyed hashes, figures and vocabulary names
                                        that a DICOM file would have told
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.pseudonym import UNKNOWN_DEVICE, Pseudonymiser
from components.core.spec import DiseaseSpec
from serving import told_words
from serving.predictor import Query

MAX_SAMPLES = 256
DEVICE_KEY = re.compile(r"[0-9a-f]{16}")
FORMS = "{dicom_base64, row, column} or {array, device_key, manufacturer, device_model, patient_key, software_key, acquisition}"
ARRAY_KEYS = {"array", "device_key", "manufacturer", "device_model", "patient_key", "software_key", "acquisition"}
ACQUISITION = re.compile(r"acq_[a-z0-9_]{1,40}")
MAX_ACQUISITION = 32
ROW_HEADER, COLUMN_HEADER = "X-Dxflow-Row", "X-Dxflow-Column"


def from_document(document: Any, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """Samples of a v1 JSON body, `{"instances": [...]}`. Raises DataError."""
    if not isinstance(document, Mapping) or not isinstance(document.get("instances"), list):
        raise DataError("missing or not a list", where="instances", allowed=f"a list of {FORMS}")
    instances = document["instances"]
    _check_number(len(instances), "instances")
    return [_from_instance(instance, f"instances[{n}]", spec, pseudonymiser) for n, instance in enumerate(instances)]


def _from_instance(instance: Any, where: str, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> Query:
    if not isinstance(instance, Mapping) or ("dicom_base64" in instance) == ("array" in instance):
        raise DataError("not a sample", where=where, allowed=FORMS)
    allowed = {"dicom_base64", "row", "column"} if "dicom_base64" in instance else ARRAY_KEYS
    if extra := len(set(instance) - allowed):
        raise DataError("unknown keys", where=where, got=f"{extra} of them", allowed=", ".join(sorted(allowed)))
    if "array" in instance:
        query = from_array(_numbers(instance["array"], f"{where}.array"), instance.get("device_key"), spec, where=where)
        patient, software = (_keyed(instance.get(name), f"{where}.{name}") for name in ("patient_key", "software_key"))
        names = {name: told_words.word(name, instance.get(name), pseudonymiser, f"{where}.{name}") for name in ("manufacturer", "device_model")}
        acquisition = _acquisition(instance.get("acquisition"), pseudonymiser, f"{where}.acquisition")
        return replace(query, patient=patient, software=software, acquisition=acquisition, **names)
    try:
        data = base64.b64decode(instance["dicom_base64"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise DataError("not base64", where=f"{where}.dicom_base64") from None
    row, column = (_number(instance.get(name), f"{where}.{name}") for name in ("row", "column"))
    return from_dicom(data, row, column, spec, pseudonymiser, where=f"{where}.dicom_base64", names=(f"{where}.row", f"{where}.column"))


def from_raw(data: bytes, headers: Mapping[str, str], spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> Query:
    """The sample of a body that is one DICOM file, the point of interest in two headers. Raises DataError."""
    row, column = (_header_number(headers, name) for name in (ROW_HEADER, COLUMN_HEADER))
    return from_dicom(data, row, column, spec, pseudonymiser, where="body", names=(f"header {ROW_HEADER}", f"header {COLUMN_HEADER}"))


def from_dicom(
    data: bytes, row: float | None, column: float | None, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, *, where: str, names: tuple[str, str]
) -> Query:
    """A whole image, or the patch around (row, column) of it where the spec looks at patches. Raises DataError."""
    from components.core.imaging.dicom import read_dicom
    from components.core.imaging.patches import cut_patch

    try:
        image = read_dicom(data, spec=spec, pseudonymiser=pseudonymiser)
        if len(image.frames) != 1:
            raise DataError("several frames in one file", got=len(image.frames), allowed="one image per request")
        frame = image.frames[0]
        if spec.input.spacing_mm is None and frame.shape == tuple(spec.input.shape[1:]):
            array = frame[None]
        else:
            point = tuple(_inside(value, size, name) for value, size, name in zip((row, column), frame.shape, names, strict=False))
            array = cut_patch(frame, centre_rc=(point[0], point[1]), pixel_mm=image.pixel_mm, spec_input=spec.input)
    except DataError as error:  # the reader does not know where in the request the file stood
        raise DataError(error.what, where=error.where if error.where in names else where, got=error.got, allowed=error.allowed) from None
    device = image.device
    return Query(
        array=array, device_key=device.key, manufacturer=device.manufacturer, device_model=device.model, software=device.software or None,
        patient=image.patient, study=image.study, series=image.series,
        acquisition={key: value for key, value in image.facts.items() if _loggable(value)}, source="dicom",
    )  # fmt: skip


def _inside(value: float | None, size: int, name: str) -> float:
    if value is None:
        raise DataError("missing: this model looks at a patch around a point", where=name, allowed="pixels")
    if not -0.5 <= value <= size - 0.5:
        raise DataError("outside the image", where=name, allowed=f"0 to {size - 1}")
    return value


def _loggable(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


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


def from_tensor(shape: Any, datatype: str, data: Any, raw: bytes | None, device_key: Any, spec: DiseaseSpec) -> list[Query]:
    """Samples of a v2 tensor, FP32 [n, *input.shape], from JSON numbers or little-endian bytes. Raises DataError."""
    where = "inputs[0]"
    wanted = ["n", *spec.input.shape]
    if datatype != "FP32":
        raise DataError("another datatype", where=f"{where}.datatype", allowed="FP32")
    if not isinstance(shape, list) or not all(isinstance(size, int) and not isinstance(size, bool) for size in shape) or len(shape) != len(wanted):
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
        values = _numbers(data, f"{where}.data")
        if values.size != size:
            raise DataError("another number of values than its shape", where=f"{where}.data", got=values.size, allowed=size)
    return [from_array(sample, device_key, spec, where=where) for sample in values.reshape(shape)]


def _numbers(values: Any, where: str) -> NDArray[np.float32]:
    """Nested lists of JSON numbers as float32; anything else between them is refused, not converted."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal length
        raise DataError("lists of unequal length", where=where) from None
    if array.dtype.kind not in "iuf" or not isinstance(values, list):
        raise DataError("not numbers only", where=where)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is refused with the other values that are not finite
        return array.astype(np.float32)


def _keyed(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not DEVICE_KEY.fullmatch(value):
        raise DataError("not a keyed hash", where=where, allowed="16 hexadecimal characters")
    return value


def _acquisition(value: Any, pseudonymiser: Pseudonymiser, where: str) -> dict[str, Any]:
    """Acquisition parameters: numbers, and the words that `told_words.py` knows."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_ACQUISITION:
        raise DataError("not acquisition parameters", where=where, allowed=f"at most {MAX_ACQUISITION} by name")
    if not all(isinstance(name, str) and ACQUISITION.fullmatch(name) for name in value):
        raise DataError("not names of acquisition parameters", where=where, allowed="acq_<name>")
    told = {name: told_words.word(name, v, pseudonymiser, where) if name in told_words.KNOWN else v for name, v in value.items()}
    figures = {name: v for name, v in told.items() if name not in told_words.KNOWN}
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in figures.values()):
        raise DataError("not numbers", where=where, allowed=f"numbers; words only for {', '.join(told_words.ACQUISITION)}")
    return {name: float(v) if name in figures else v for name, v in told.items()}


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError("not a number", where=where, allowed="pixels")
    return float(value)


def _header_number(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name.lower())
    if text is None:
        return None
    try:
        return _number(float(text), f"header {name}")
    except ValueError:
        raise DataError("not a number", where=f"header {name}", allowed="pixels") from None


def _check_number(n: int, where: str) -> None:
    if not 1 <= n <= MAX_SAMPLES:
        raise DataError("number of samples out of range", where=where, got=n, allowed=f"1 to {MAX_SAMPLES}")
