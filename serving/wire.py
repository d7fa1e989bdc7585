"""Protocols v1 and v2 as bytes: what stands in a body, and a body for the answers. No line quotes a value out of a request.

    v1   {"instances": [...]}, or one file as the whole body        -> {"predictions": [...]}
    v2   JSON, tensors in it or as bytes behind it, as the client likes; answers the same way

Nothing here knows a model. Source: KServe open inference protocol and its binary tensor data extension.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from components.core.errors import DataError

JSON = "application/json"
LENGTH = "Inference-Header-Content-Length"
MAX_TENSORS = 16
NO_NUMBER = re.compile(r"[-+]?(?:nan|inf(?:inity)?)\b", re.I)
FORM = "name, shape, datatype, and data or parameters.binary_data_size"


@dataclass(frozen=True)
class Tensor:
    """One input as it came. Either `data` (what JSON held) or `raw` (little-endian bytes; of BYTES each element with its length before it)."""

    name: str
    shape: Any
    datatype: str
    data: Any = None
    raw: bytes | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A v2 request.

    Args:
        outputs: Names of the outputs wanted, and whether as bytes; None: all of them.
        binary: Whether outputs come as bytes where the request does not say.
    """

    id: str
    tensors: list[Tensor]
    parameters: Mapping[str, Any]
    outputs: list[tuple[str, bool]] | None = None
    binary: bool = False


@dataclass(frozen=True)
class Output:
    """A column of the answers, one row a sample.

    Args:
        datatype: FP32, BOOL or BYTES.
        values: float32 (n, K), bool (n,), or a list of n bytes.
    """

    name: str
    datatype: str
    shape: list[int]
    values: NDArray[Any] | list[bytes]

    def raw(self) -> bytes:
        if isinstance(self.values, np.ndarray):
            return self.values.tobytes()
        return b"".join(struct.pack("<I", len(item)) + item for item in self.values)

    def numbers(self) -> Any:
        """What orjson writes: not-a-number becomes null."""
        if isinstance(self.values, np.ndarray):
            return self.values.reshape(-1)
        return [item.decode() for item in self.values]


@dataclass(frozen=True)
class Reply:
    """An HTTP answer: its body, and where the JSON of a v2 answer ends if bytes follow it."""

    body: bytes
    json_bytes: int | None = None


def document(body: bytes) -> Any:
    """JSON. Raises DataError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        why = unlike_json(body, error)
        raise DataError("not JSON" + (f": {why}" if why else ""), where="body") from None


def unlike_json(body: bytes, error: orjson.JSONDecodeError) -> str:
    """What other writers of JSON do and JSON does not have, where that is what is wrong; "" for anything else. Nothing of the body is repeated."""
    if body.startswith(codecs.BOM_UTF8):
        return "it begins with a byte order mark"
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if NO_NUMBER.match(text, max(0, error.pos - 1)) or NO_NUMBER.match(text, error.pos) or "infinity" in error.msg:
        return "a number is NaN or infinite, for which JSON has no word"
    return ""


def v1_reply(answers: Sequence[Mapping[str, Any]]) -> Reply:
    return Reply(orjson.dumps({"predictions": answers}))


def v2_request(body: bytes, headers: Mapping[str, str]) -> Asked:
    """Without turning bytes into numbers one by one. Raises DataError.

    Args:
        headers: Names in lower case.
    """
    text = headers.get(LENGTH.lower())
    kind = headers.get("content-type", JSON).split(";")[0].strip().lower()
    if text is None and kind == JSON:
        at = len(body)
    elif text is None or not (text.isascii() and text.isdigit() and len(text) < 12) or not 2 <= int(text) <= len(body):
        raise DataError("missing or out of range", where=f"header {LENGTH}", allowed="length of the JSON in bytes")
    else:
        at = int(text)
    try:
        found = orjson.loads(body[:at])
    except orjson.JSONDecodeError as error:
        if why := unlike_json(body[:at], error):
            raise DataError(f"not JSON: {why}", where="body" if at == len(body) else "inputs") from None
        raise DataError("not as the protocol wants it", where="body" if at == len(body) else "inputs", allowed=f"JSON of {FORM}") from None
    if not isinstance(found, dict) or not isinstance(found.get("inputs"), list):
        raise DataError("not as the protocol wants it", where="inputs", allowed=FORM)
    if len(found["inputs"]) > MAX_TENSORS:
        raise DataError("too many tensors", where="inputs", got=len(found["inputs"]), allowed=f"at most {MAX_TENSORS}")
    own = _parameters(found, "parameters")
    request_id = found.get("id") or ""
    if not isinstance(request_id, str) or len(request_id) > 200:
        raise DataError("not as the protocol wants it", where="id", allowed="a text of at most 200 characters")
    tensors = []
    for n, item in enumerate(found["inputs"]):
        tensor, at = _tensor(item, f"inputs[{n}]", body, at)
        tensors.append(tensor)
    if at != len(body):
        raise DataError("more bytes than its tensors", where="body")
    binary = own.get("binary_data_output") is True
    return Asked(request_id, tensors, own, _outputs(found.get("outputs"), binary), binary)


def _tensor(item: Any, where: str, body: bytes, at: int) -> tuple[Tensor, int]:
    """The tensor, and where the bytes of the next one begin."""
    if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not isinstance(item.get("datatype"), str) or "shape" not in item:
        raise DataError("not as the protocol wants it", where=where, allowed=FORM)
    parameters = _parameters(item, f"{where}.parameters")
    size = parameters.get("binary_data_size")
    if (size is None) == (item.get("data") is None):
        raise DataError("not as the protocol wants it", where=where, allowed=FORM)
    if size is None:
        return Tensor(item["name"], item["shape"], item["datatype"], data=item["data"], parameters=parameters), at
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(body) - at:
        raise DataError("out of range", where="inputs.parameters.binary_data_size", allowed="at most the bytes that follow the JSON")
    return Tensor(item["name"], item["shape"], item["datatype"], raw=body[at : at + size], parameters=parameters), at + size


def _parameters(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = item.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(v, str | int | float | bool) for v in found.values()):
        raise DataError("not as the protocol wants it", where=where, allowed="texts, numbers and booleans by name")
    return found


def _outputs(wanted: Any, binary: bool) -> list[tuple[str, bool]] | None:
    if not wanted:
        return None
    if not isinstance(wanted, list) or len(wanted) > MAX_TENSORS or not all(isinstance(o, dict) and isinstance(o.get("name"), str) for o in wanted):
        raise DataError("not as the protocol wants it", where="outputs", allowed="objects with a name")
    return [(o["name"], bool(_parameters(o, "outputs.parameters").get("binary_data", binary))) for o in wanted]


def check_outputs(asked: Asked, names: Sequence[str]) -> None:
    """Raises DataError when an output is wanted that there is not."""
    if any(name not in names for name, _ in asked.outputs or ()):
        raise DataError("no such output", where="outputs", allowed=", ".join(names))


def chosen(asked: Asked, outputs: Sequence[Output]) -> list[tuple[Output, bool]]:
    """The outputs that the request wants, in its order, and whether as bytes."""
    if asked.outputs is None:
        return [(output, asked.binary) for output in outputs]
    by_name = {output.name: output for output in outputs}
    return [(by_name[name], binary) for name, binary in asked.outputs]


def v2_reply(asked: Asked, outputs: Sequence[Output], *, model: str, version: str, request_id: str) -> Reply:
    described, behind = [], []
    for output, binary in chosen(asked, outputs):
        one: dict[str, Any] = {"name": output.name, "shape": output.shape, "datatype": output.datatype}
        if binary:
            behind.append(output.raw())
            one["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            one["data"] = output.numbers()
        described.append(one)
    answer = {"model_name": model, "model_version": version, "id": asked.id or request_id, "outputs": described}
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Reply(b"".join([head, *behind]), len(head)) if behind else Reply(head)
