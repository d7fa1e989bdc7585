"""A real KServe server process, asked over real HTTP. One process serves the whole file; the last tests count its log and end it."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from components.core import image_quality
from components.core.devices import DeviceProfile
from components.core.errors import DataError, ServiceError, SpecError
from components.core.inference_log import read_log
from components.core.pseudonym import Pseudonymiser
from feature_store.store import ONLINE, online_folder, publish, write_profiles
from serving import client
from tests.serving.small_dicom import MARKS, PERSON, ct_slice, image
from tests.serving.small_package import GAIN, MIDDLE, POOL, build, lung_nodule, reference
from tests.serving.small_server import serving

KEY = "a key of the tests only"
POINT = {"X-Dxflow-Row": "100.5", "X-Dxflow-Column": "99.5"}
SHIFT = 50.0  # the known scanner reads this many HU higher than the training pool


def device(serial: str) -> str:
    return Pseudonymiser(KEY.encode()).id("device", "SIEMENS", "SOMATOM Force", serial, "CT1")


KNOWN, STALE, REMOVED = device("SN-12345"), device("SN-old"), device("SN-removed")


@dataclass
class Server:
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    output: Path
    home: Path
    client: httpx.Client = field(default_factory=httpx.Client)
    answered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def post(self, path: str, **request: Any) -> httpx.Response:
        """Send; remember the ids of what was answered and refused, for the count at the end."""
        reply = self.client.post(self.url + path, timeout=60, **request)
        if reply.status_code != 200:
            self.refused[reply.json()["request_id"]] = reply.json()["error"]
        if reply.status_code == 200 and "predictions" in reply.json():
            self.answered += [a["request_id"] for a in reply.json()["predictions"]]
        elif reply.status_code == 200:
            outputs = {o["name"]: o["data"] for o in reply.json()["outputs"]}
            self.answered += [json.loads(a)["request_id"] for a in outputs["answer"]]
        return reply

    def dicom(self, data: bytes, *, model: str = "lung-nodule", headers: dict[str, str] = POINT) -> httpx.Response:
        return self.post(f"/v1/models/{model}:predict", content=data, headers={"Content-Type": "application/dicom", **headers})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(root / "home"))
        patch.setenv("DXFLOW_KEY", KEY)
        known = reference({KNOWN: ("SIEMENS", "SOMATOM FORCE")})
        strict = build(root / "strict", lung_nodule(), known)
        lenient = build(root / "lenient", lung_nodule(name="lung-lenient", normalise={"method": "device", "missing_profile": "pooled"}), known)
        shifted = POOL.to_dict() | {"software": ""} | {level: getattr(POOL, level) + SHIFT for level in ("mean", "p01", "p50", "p99")}
        write_profiles(root / "new", [DeviceProfile.from_dict(shifted | {"device_key": key}).to_dict() for key in (KNOWN, REMOVED)])
        write_profiles(root / "old", [DeviceProfile.from_dict(shifted | {"device_key": STALE}).to_dict()])
        publish(root / "new", online=online_folder(strict.name))
        publish(root / "old", online=online_folder(strict.name), now=datetime(2020, 1, 1, tzinfo=UTC))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        code = serving([strict.folder, lenient.folder], root / "log", port=port, drain_s=600)
        with open(root / "output.txt", "wb") as output:
            process = subprocess.Popen([sys.executable, "-c", code], stdout=output, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2])
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                assert process.poll() is None, (root / "output.txt").read_text()
                try:
                    if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield Server(url, process, root / "log", root / "output.txt", root / "home")
        finally:
            process.kill()
            process.wait()


def expected(hu: np.ndarray, *, shift: float) -> float:
    """P(malignant) of the patch around (100.5, 99.5), by hand: pixels of 0.7 mm on a grid of 0.7 mm, so the patch is a plain crop."""
    crop = hu[75:127, 74:126].astype(float) - shift
    x = np.clip((crop + 1000) / 1400, 0, 1)
    return float(1 / (1 + np.exp(-GAIN * (x.mean() - MIDDLE))))


def test_a_dicom_slice_of_a_known_scanner_gets_the_probability_computed_by_hand(server: Server) -> None:
    reply = server.dicom(ct_slice(image()))
    assert reply.status_code == 200, reply.text
    answer = reply.json()["predictions"][0]
    assert answer["probabilities"]["malignant"] == pytest.approx(expected(image(), shift=SHIFT), abs=1e-4)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["decision"] == ("malignant" if answer["probabilities"]["malignant"] >= 0.4 else "benign")
    assert answer["device"] == {"key": KNOWN, "manufacturer": "SIEMENS", "model": "SOMATOM FORCE", "status": "known", "profile": "ok"}
    assert (answer["abstain"], answer["reasons"], answer["synthetic"], answer["model"]) == (False, [], False, "lung-nodule")
    assert reply.headers["x-request-id"] == answer["request_id"]


def test_the_profile_is_load_bearing(server: Server) -> None:
    """The same pixels from a scanner with a profile and without one: the shift of the profile is in the answer, or there is none."""
    assert abs(expected(image(), shift=SHIFT) - expected(image(), shift=0)) > 0.05
    pooled = server.dicom(ct_slice(image()), model="lung-lenient").json()["predictions"][0]
    assert pooled["probabilities"]["malignant"] == pytest.approx(expected(image(), shift=0), abs=1e-4)
    assert pooled["reasons"] == ["pooled profile used: device without profile"]
    assert (pooled["abstain"], pooled["device"]["profile"]) == (False, "pooled")


def test_base64_in_json_answers_as_the_raw_file(server: Server) -> None:
    data = ct_slice(image(3))
    instance = {"dicom_base64": base64.b64encode(data).decode(), "row": 100.5, "column": 99.5}
    both = [server.post("/v1/models/lung-nodule:predict", json={"instances": [instance]}), server.dicom(data)]
    first, second = ({k: v for k, v in r.json()["predictions"][0].items() if k != "request_id"} for r in both)
    assert first == second


@pytest.mark.parametrize(
    ("serial", "status", "reason"), [("SN-new", "unseen", "device without profile"), ("SN-old", "stale", "stale device profile")]
)
def test_a_scanner_without_a_valid_profile_gets_no_decision_and_the_reason(server: Server, serial: str, status: str, reason: str) -> None:
    answer = server.dicom(ct_slice(image(), serial=serial)).json()["predictions"][0]
    assert (answer["decision"], answer["abstain"], answer["reasons"], answer["probabilities"]) == (None, True, [reason], {})
    assert answer["device"]["status"] == status
    assert answer["device"]["key"] == device(serial)


def test_taking_a_profile_away_turns_the_decision_into_an_abstention(server: Server) -> None:
    data = ct_slice(image(), serial="SN-removed")
    assert server.dicom(data).json()["predictions"][0]["abstain"] is False
    with sqlite3.connect(server.home / "features" / "lung-nodule" / ONLINE) as store:
        (table,) = [name for (name,) in store.execute("select name from sqlite_master where type = 'table' and name like '%device_profile%'")]
        gone = [key for (key,) in store.execute(f"select distinct entity_key from {table}") if REMOVED.encode() in key]
        assert len(gone) == 1
        store.execute(f"delete from {table} where entity_key = ?", gone)
    answer = server.dicom(data).json()["predictions"][0]
    assert (answer["abstain"], answer["reasons"]) == (True, ["device without profile"])
    assert server.dicom(ct_slice(image())).json()["predictions"][0]["abstain"] is False


def test_v2_tensors_as_json_and_binary_through_kserves_own_client_agree_with_v1(server: Server) -> None:
    import asyncio

    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    x = np.stack([image(n)[75:127, 74:126][None] for n in range(3)]).astype(np.float32)

    async def ask() -> list[Any]:
        replies = []
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as v2:
            assert await v2.is_server_ready(server.url)
            assert await v2.is_model_ready(server.url, "lung-nodule")
            for binary in (False, True):
                tensor = InferInput("x", list(x.shape), "FP32")
                tensor.set_data_from_numpy(x, binary_data=binary)
                replies.append(
                    await v2.infer(server.url, InferRequest("lung-nodule", [tensor], "mine", parameters={"device_key": KNOWN}), "lung-nodule")
                )
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as v1:
            instances = [{"array": a.tolist(), "device_key": KNOWN} for a in x]
            replies.append(await v1.infer(server.url, {"instances": instances}, "lung-nodule"))
        return replies

    as_json, as_binary, v1 = asyncio.run(ask())
    wanted = [expected(image(n), shift=SHIFT) for n in range(3)]
    for reply in (as_json, as_binary):
        outputs = {o.name: o for o in reply.outputs}
        assert reply.id == "mine"
        assert outputs["probabilities"].as_numpy()[:, 1] == pytest.approx(wanted, abs=1e-4)
        server.answered += [json.loads(a)["request_id"] for a in outputs["answer"].data]
    assert [a["probabilities"]["malignant"] for a in v1["predictions"]] == pytest.approx(wanted, abs=1e-4)
    server.answered += [a["request_id"] for a in v1["predictions"]]


def test_v2_says_null_and_not_a_number_where_it_abstains(server: Server) -> None:
    tensor = {"name": "x", "shape": [1, 1, 52, 52], "datatype": "FP32", "data": image()[:52, :52].ravel().tolist()}
    outputs = {o["name"]: o["data"] for o in server.post("/v2/models/lung-nodule/infer", json={"inputs": [tensor]}).json()["outputs"]}
    assert outputs["probabilities"] == [None, None]
    assert outputs["abstain"] == [True]
    assert outputs["decision"] == [""]


def test_an_empty_patch_gets_no_decision(server: Server) -> None:
    flat = np.full((1, 52, 52), -1000).tolist()
    answer = server.post("/v1/models/lung-nodule:predict", json={"instances": [{"array": flat, "device_key": KNOWN}]}).json()["predictions"][0]
    assert answer["reasons"] == ["image without content"]
    assert answer["decision"] is None


GOOD = ct_slice(image())
ARRAY = image()[:52, :52][None]


def with_first_value(text: str) -> str:
    """A valid body but for its first pixel."""
    return json.dumps({"instances": [{"array": ARRAY.tolist()}]}).replace(str(ARRAY[0, 0, 0]), text, 1)


DICOM, JSON = {"Content-Type": "application/dicom", **POINT}, {"Content-Type": "application/json"}


def instances(*items: Any) -> str:
    return json.dumps({"instances": list(items)})


BAD_V1: dict[str, tuple[bytes | str, dict[str, str], str]] = {
    "no DICOM": (PERSON.encode() * 20, DICOM, "body: not a DICOM file"),
    "empty": (b"", DICOM, "body: empty file"),
    "cut in the header": (GOOD[:300], DICOM, "body: "),
    "cut in the pixels": (GOOD[:-500], DICOM, "body: truncated"),
    "no row": (GOOD, {"Content-Type": "application/dicom", "X-Dxflow-Column": "9"}, "header X-Dxflow-Row: missing"),
    "row a name": (GOOD, DICOM | {"X-Dxflow-Row": PERSON}, "header X-Dxflow-Row: not a number"),
    "row NaN": (GOOD, DICOM | {"X-Dxflow-Row": "nan"}, "header X-Dxflow-Row: not a number"),
    "column outside": (GOOD, DICOM | {"X-Dxflow-Column": "200"}, "header X-Dxflow-Column: outside the image; allowed: 0 to 199"),
    "no pixel spacing": (ct_slice(image(), PixelSpacing=None), DICOM, "body: no pixel spacing"),
    "other content": (GOOD, {"Content-Type": "application/octet-stream"}, "header Content-Type: not offered"),
    "no JSON": (f"{{{PERSON}", JSON, "body: not JSON"),
    "a list": (json.dumps([PERSON]), JSON, "instances: missing or not a list"),
    "instances a text": (json.dumps({"instances": PERSON}), JSON, "instances: missing or not a list"),
    "no instances": (instances(), JSON, "instances: number of samples out of range; got 0"),
    "an instance a text": (instances(PERSON), JSON, "instances[0]: not a sample"),
    "unknown key": (instances({"array": [], PERSON: 1}), JSON, "instances[0]: unknown keys"),
    "wrong shape": (instances({"array": [[1, 2], [3, 4]]}), JSON, "instances[0].array: another shape; got [2, 2]; allowed: [1, 52, 52]"),
    "ragged": (instances({"array": [[1], [2, 3]]}), JSON, "instances[0].array: lists of unequal length"),
    "texts for numbers": (instances({"array": [[["1"] * 52] * 52]}), JSON, "instances[0].array: not numbers only"),
    "null between": (instances({"array": [[[None] * 52] * 52]}), JSON, "instances[0].array: not numbers only"),
    "booleans": (instances({"array": [[[True] * 52] * 52]}), JSON, "instances[0].array: not numbers only"),
    "NaN": (with_first_value("NaN"), JSON, "body: not JSON"),
    "beyond float32": (with_first_value("1e300"), JSON, "instances[0].array: values that are not finite; got 1 of 2704"),
    "device key a name": (instances({"array": ARRAY.tolist(), "device_key": PERSON}), JSON, "instances[0].device_key: not a device key"),
    "not base64": (instances({"dicom_base64": PERSON}), JSON, "instances[0].dicom_base64: not base64"),
    "base64 of a text": (instances({"dicom_base64": base64.b64encode(PERSON.encode()).decode()}), JSON, "instances[0].dicom_base64: not a DICOM"),
    "row a text": (instances({"dicom_base64": "", "row": PERSON}), JSON, "instances[0].row: not a number"),
    "cloud event": (instances(), {"ce-id": "1", "ce-source": PERSON, "ce-specversion": "1.0", "ce-type": "t"}, "headers: cloud events"),
}


def tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 1, 52, 52], "datatype": "FP32", "data": ARRAY.ravel().tolist()} | changes]}


def binary(head: dict[str, Any], tail: bytes, length: int | str | None = None) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text) if length is None else length)}
    return text + tail, headers


RAW = ARRAY.astype("<f4").tobytes()
HEAD = {"inputs": [{"name": "x", "shape": [1, 1, 52, 52], "datatype": "FP32", "parameters": {"binary_data_size": len(RAW)}}]}
BAD_V2: dict[str, tuple[tuple[bytes, dict[str, str]] | dict[str, Any], str]] = {
    "no inputs": ({"inputs": []}, "inputs: another number of tensors; got 0"),
    "inputs a text": ({"inputs": PERSON}, "inputs: not as the protocol wants it"),
    "unknown datatype": (tensor(datatype=PERSON), "inputs[0].datatype: another datatype; allowed: FP32"),
    "wrong shape": (tensor(shape=[1, 52, 52]), "inputs[0].shape: another shape; got 3 axes"),
    "other grid": (tensor(shape=[1, 1, 26, 104]), "inputs[0].shape: another shape; got [1, 1, 26, 104]"),
    "negative": (tensor(shape=[-1, 1, 52, 52]), "inputs[0].shape: number of samples out of range"),
    "too few numbers": (tensor(data=[1.0]), "inputs[0].data: another number of values than its shape; got 1; allowed: 2704"),
    "texts": (tensor(data=[PERSON] * 2704), "inputs[0].data: not numbers only"),
    "device key a name": (tensor() | {"parameters": {"device_key": PERSON}}, "inputs[0].device_key: not a device key"),
    "no length": ((RAW, {"Content-Type": "application/octet-stream"}), "header Inference-Header-Content-Length: missing"),
    "length a name": (binary(HEAD, RAW, PERSON), "header Inference-Header-Content-Length: missing or out of range"),
    "length beyond": (binary(HEAD, RAW, 10**9), "header Inference-Header-Content-Length: missing or out of range"),
    "head no JSON": (binary(HEAD, RAW, 7), "inputs: not as the protocol wants it"),
    "head a list": (binary([PERSON], b""), "inputs: not as the protocol wants it"),  # pyright: ignore[reportArgumentType]
    "bytes missing": (binary(HEAD, RAW[:-4]), "inputs.parameters.binary_data_size: out of range"),
    "bytes left over": (binary(HEAD, RAW + b"0000"), "body: more bytes than its tensors"),
    "NaN": (binary(HEAD, np.full_like(ARRAY, np.nan, dtype="<f4").tobytes()), "inputs[0].array: values that are not finite; got 2704 of 2704"),
}


def clean(text: str) -> bool:
    return not any(mark in text.lower() for mark in MARKS)


@pytest.mark.parametrize("case", BAD_V1)
def test_a_bad_v1_request_is_400_naming_the_field_and_echoing_nothing(server: Server, case: str) -> None:
    body, headers, text = BAD_V1[case]
    reply = server.post("/v1/models/lung-nodule:predict", content=body, headers={k: v.encode() for k, v in headers.items()})
    assert reply.status_code == (415 if "Content-Type: not offered" in text else 400), reply.text
    assert reply.json()["error"].startswith(text)
    assert "\n" not in reply.json()["error"]
    assert clean(reply.text)


@pytest.mark.parametrize("case", BAD_V2)
def test_a_bad_v2_request_is_400_naming_the_field_and_echoing_nothing(server: Server, case: str) -> None:
    body, text = BAD_V2[case]
    request = {"json": body} if isinstance(body, dict) else {"content": body[0], "headers": body[1]}
    reply = server.post("/v2/models/lung-nodule/infer", **request)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"].startswith(text)
    assert clean(reply.text)


def test_one_bad_instance_refuses_the_request_which_is_one_record_without_any_value_of_it(server: Server) -> None:
    before = len(read_log(server.log))
    instances = [{"array": ARRAY.tolist(), "device_key": KNOWN}, {"array": [[PERSON]]}]
    reply = server.post("/v1/models/lung-nodule:predict", json={"instances": instances})
    assert (reply.status_code, reply.json()["error"][:18]) == (400, "instances[1].array")
    table = read_log(server.log)
    assert len(table) == before + 1
    row = table.iloc[-1].dropna().to_dict()
    assert row.pop("latency_ms") > 0
    assert set(row) == {"time", "request_id", "model", "version", "digest", "status", "reasons", "abstain"}
    assert (row["model"], row["status"], row["reasons"]) == ("lung-nodule", "refused", [reply.json()["error"]])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/models/Miller:predict", 404), ("POST", "/v2/models/Miller/infer", 404),
        ("POST", "/v2/repository/models/lung-nodule/unload", 404), ("POST", "/v2/repository/models/lung-nodule/load", 404),
        ("GET", "/openapi.json/x", 404), ("GET", "/docs", 404), ("POST", "/v2/models/lung-nodule/versions/9/infer", 501),
    ],
)  # fmt: skip
def test_what_is_not_offered_says_so_without_headers_or_names(server: Server, method: str, path: str, status: int) -> None:
    reply = httpx.request(method, server.url + path, json=tensor(), headers={"Cookie": "secret=Miller", "X-Request-Id": "PID-4711"})
    assert reply.status_code == status, reply.text
    if "lung-nodule/versions" in path:  # a prediction that was asked for
        server.refused[reply.json()["request_id"]] = reply.json()["error"]
    assert clean(reply.text + str(reply.headers))


def test_a_body_over_the_limit_is_413_by_its_length_and_by_its_chunks(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(b"POST /v1/models/lung-nodule:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: raw.recv(1000), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    server.refused[json.loads(body)["request_id"]] = json.loads(body)["error"]
    chunk = b" " * (1 << 20)
    reply = server.post("/v1/models/lung-nodule:predict", content=(chunk for _ in range(66)))
    assert reply.status_code == 413


def test_a_clients_own_request_id_is_neither_used_nor_returned(server: Server) -> None:
    reply = server.dicom(GOOD, headers=POINT | {"X-Request-Id": "PID-4711"})
    assert reply.status_code == 200
    assert clean(reply.text + str(reply.headers))


def test_it_listens_on_loopback_only_and_on_one_port(server: Server) -> None:
    listening = [c.laddr for c in psutil.Process(server.process.pid).connections("inet") if c.status == psutil.CONN_LISTEN]
    assert [(a.ip, a.port) for a in listening] == [("127.0.0.1", int(server.url.rsplit(":", 1)[1]))]


def test_many_clients_at_once_are_each_answered_once(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: server.dicom(ct_slice(image(n), PatientID=f"P{n}")), range(24)))
    answers = [r.json()["predictions"][0] for r in replies]
    assert [a["probabilities"]["malignant"] for a in answers] == pytest.approx([expected(image(n), shift=SHIFT) for n in range(24)], abs=1e-4)
    assert len({a["request_id"] for a in answers}) == 24


def test_the_client_of_dxflow_predict_sends_dicom_and_arrays(server: Server, tmp_path: Path) -> None:
    (tmp_path / "slice.dcm").write_bytes(GOOD)
    np.save(tmp_path / "patch.npy", image()[75:127, 74:126][None])
    answers = [
        *client.predict(server.url, "lung-nodule", tmp_path / "slice.dcm", 100.5, 99.5, 30),
        *client.predict(server.url, "synthetic/lung-lenient", tmp_path / "patch.npy", None, None, 30),
    ]
    server.answered += [a["request_id"] for a in answers]
    assert [a["device"]["status"] for a in answers] == ["known", "unknown"]


def test_an_array_may_say_what_a_dicom_file_would_have_told(server: Server) -> None:
    """Keyed hashes of patient and software, and acquisition figures, land in the log; anything else is refused by name and not repeated."""
    array = image()[75:127, 74:126][None].tolist()
    told = {"device_key": KNOWN, "patient_key": "0123456789abcdef", "software_key": "fedcba9876543210", "acquisition": {"acq_kvp": 120}}
    words = {"acq_kernel": "B30F", "acq_photometric": "MONOCHROME2", "acq_transfer_syntax": "1.2.840.10008.1.2.1", "acq_modality": "CT"}
    told["acquisition"] |= words
    named = {"manufacturer": "GE", "device_model": "other-0123abcd"}
    reply = server.post("/v1/models/lung-nodule:predict", json={"instances": [{"array": array} | told | named]})
    assert reply.status_code == 200, reply.text
    log = read_log(server.log)
    record = log[log["request_id"] == reply.json()["predictions"][0]["request_id"]].iloc[0]
    assert (record["device_key"], record["patient"], record["software"], record["acq_kvp"]) == (KNOWN, *list(told.values())[1:3], 120)
    assert {name: record[name] for name in (*words, *named)} == words | named
    for name, value in (
        ("patient_key", PERSON), ("software_key", 7), ("acquisition", {"acq_kernel": PERSON}), ("acquisition", {PERSON: 1}),
        ("acquisition", {f"acq_{n}": n for n in range(33)}), ("acquisition", {"acq_kvp": True}),
        ("manufacturer", PERSON), ("device_model", PERSON), ("manufacturer", "ge medical systems"), ("device_model", 7),
        ("acquisition", {"acq_transfer_syntax": "1.2.840.10008.5.1.4.1.1.2"}), ("acquisition", {"acq_photometric": "other-0123abcd"}),
        ("acquisition", {"acq_mood": "B30F"}), ("acquisition", {"acq_kernel": "B" * 65}), ("acquisition", {"acq_jane_doe_1948": 1}),
        ("acquisition", {"acq_kvp": 1e6}),
    ):  # fmt: skip
        reply = server.post("/v1/models/lung-nodule:predict", json={"instances": [{"array": array, name: value}]})
        assert reply.status_code == 400
        assert reply.json()["error"].startswith(f"instances[0].{name}: ")
        assert PERSON not in reply.text


def test_the_client_says_in_one_line_what_failed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text(PERSON)
    with pytest.raises(DataError, match="body: not a file that this model takes; allowed: application/dicom"):
        client.predict(server.url, "lung-nodule", tmp_path / "note.txt", 1, 1, 30)
    for content, what in ((b"PK\3\4\0", "not a file that a server takes; allowed: DICOM, JPEG, PNG"), (b"\x93NUMPY\1", "a damaged .npy file")):
        (tmp_path / "scan").write_bytes(content)
        with pytest.raises(DataError, match=what):
            client.predict(server.url, "lung-nodule", tmp_path / "scan", 1, 1, 30)
    with pytest.raises(DataError, match=r"cannot read the file"):
        client.predict(server.url, "lung-nodule", tmp_path / "absent.dcm", 1, 1, 30)
    with pytest.raises(SpecError, match="no such model at the server; got 'skin'"):
        client.predict(server.url, "skin", tmp_path / "note.txt", 1, 1, 30)
    with pytest.raises(ServiceError, match="no answer from the server"):
        client.predict("http://127.0.0.1:1", "lung-nodule", tmp_path / "note.txt", 1, 1, 5)
    with pytest.raises(SpecError, match="not the address of a server"):
        client.predict("ftp://host", "lung-nodule", tmp_path / "note.txt", 1, 1, 5)


def test_the_log_has_each_answer_and_each_refusal_exactly_once_with_its_figures_and_no_person(server: Server) -> None:
    everything = read_log(server.log)
    assert (everything.attrs["damaged"], everything.attrs["lost"]) == (0, 0)
    refused = everything[everything["status"] == "refused"]
    assert refused["request_id"].is_unique
    told = dict(zip(refused["request_id"], refused["reasons"].map("".join), strict=True))
    by_the_client = {i: text for i, text in told.items() if i not in server.refused}  # the client tells the user, not us, the id
    assert list(by_the_client.values()) == ["body: not a file that this model takes; allowed: application/dicom"]
    assert told == server.refused | by_the_client
    assert len(server.refused) > 40
    table = everything[everything["status"] != "refused"]
    assert sorted(table["request_id"]) == sorted(server.answered)
    assert list(table["status"]) == ["abstained" if abstained else "answered" for abstained in table["abstain"]]
    assert len(server.answered) > 40
    row = table[(table["source"] == "dicom") & (table["device_key"] == KNOWN) & (table["model"] == "lung-nodule")].iloc[0]
    crop = image()[75:127, 74:126]
    assert row["mean"] == pytest.approx(crop.mean(), rel=1e-5)
    assert row["sd"] == pytest.approx(crop.std(), rel=1e-5)
    figures = image_quality.figures(crop[None, None], lung_nodule())
    assert [row[name] for name in figures] == [figures[name][0] for name in figures]
    assert row["acq_kvp"] == 120
    assert row["latency_ms"] > 0
    assert row["score_malignant"] == pytest.approx(expected(image(), shift=SHIFT), abs=1e-4)
    assert len({row["patient"], row["study"], row["series"]}) == 3
    assert all(re.fullmatch(r"[0-9a-f]{16}", row[name]) for name in ("patient", "study", "series"))
    assert set(table[table["abstain"]]["score_malignant"].isna()) == {True}
    kept = b"".join(p.read_bytes() for p in [*server.log.glob("*"), server.output])
    assert clean(kept.decode("utf-8", "replace"))


def test_after_sigterm_it_is_not_ready_and_answers_until_the_drain_is_over_and_then_ends_cleanly(server: Server) -> None:
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(signal.SIGTERM)
    while httpx.get(f"{server.url}/v2/health/ready").status_code == 200:
        assert server.process.poll() is None
    assert httpx.get(f"{server.url}/v2/health/ready").json()["error"] == "the server is not ready"
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
    assert server.dicom(ct_slice(image())).status_code == 200
    server.process.send_signal(signal.SIGTERM)  # whoever is in a hurry
    assert server.process.wait(timeout=60) == 0
    assert not any(c.is_running() for c in children)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/v2/health/live")
    assert not {"Traceback", "leaked"} & set(re.split(r"\W+", server.output.read_text()))
    assert not os.path.exists(f"/proc/{server.process.pid}")
