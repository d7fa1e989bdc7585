"""The protocols through clients that we did not write: KServe's REST and gRPC clients, tritonclient over HTTP and gRPC, curl. One server for all."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from components.core.imaging.deidentify import device_identity
from components.core.package import ModelPackage
from components.core.pseudonym import Pseudonymiser
from serving.client import Refused, predict
from serving.grpc_face import ENVELOPE
from serving.queries import OF_FILES
from serving.sources import from_folder
from tests.serving import triton_client
from tests.serving.live_server import Gated, Live, running
from tests.serving.small_dicom import PERSON, ct_slice, image
from tests.serving.small_package import GAIN, MIDDLE, build, lung_nodule, reference

ROOT = Path(__file__).parents[2]
DEVICE = "0123456789abcdef"
TABLE = reference({DEVICE: ("SIEMENS", "SOMATOM FORCE")}, patients=3)
MODEL, BROKEN = "lung-nodule", "lung-broken"
BODY = 12 << 20
PREDICT, INFER = f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer"
DICOM = {"Content-Type": "application/dicom", "X-Dxflow-Row": "100", "X-Dxflow-Column": "99"}
X = np.stack([image(n)[:52, :52][None] for n in range(3)]).astype(np.float32)


def expected(x: np.ndarray) -> list[float]:
    """P(malignant) by hand; the model looks at the mean of x in [0, 1]."""
    mean = np.clip((x.astype(float) + 1000) / 1400, 0, 1).mean(axis=(1, 2, 3))
    return list(1 / (1 + np.exp(-GAIN * (mean - MIDDLE))))


def made(folder: Path, name: str = MODEL) -> ModelPackage:
    return build(folder, lung_nodule(name=name, normalise={"method": "range", "missing_profile": "abstain"}), TABLE)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("clients")
    made(root / "models" / "lung")  # one folder deeper, as a mount may have it
    broken = made(root / "broken", BROKEN).folder / "model.onnx"
    broken.write_bytes(broken.read_bytes() + b"\0")
    with running([from_folder(root / "models"), from_folder(root / "broken")], root / "log", poll_s=0, queue=2, max_body_bytes=BODY) as server:
        yield server


@pytest.fixture
def gated(live: Live) -> Iterator[Gated]:
    """The model of the server, held at work until the test lets it go on."""
    place = live.places.by_name[MODEL]
    before = place.holder()
    place.predictor = Gated(before.package)
    yield place.predictor
    for _ in range(100):
        place.predictor.go_on.release()
    place.predictor = before


def v2(x: np.ndarray = X, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}], **more}


def v1(*items: Any) -> dict[str, Any]:
    return {"instances": list(items or [{"array": X[0].tolist(), "device_key": DEVICE}])}


def test_kserves_rest_client_gets_the_answers_by_v1_and_v2(live: Live) -> None:
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    async def ask() -> list[list[float]]:
        found = []
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
            reply = await client.infer(f"http://{live.url}", {"instances": [{"array": a.tolist()} for a in X]}, MODEL)
            found.append([a["probabilities"]["malignant"] for a in reply["predictions"]])
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            assert await client.is_server_ready(f"http://{live.url}")
            assert await client.is_model_ready(f"http://{live.url}", MODEL)
            for binary in (False, True):
                tensor = InferInput("x", list(X.shape), "FP32")
                tensor.set_data_from_numpy(X, binary_data=binary)
                asked = InferRequest(MODEL, [tensor], "mine", parameters={"binary_data_output": binary})
                reply = await client.infer(f"http://{live.url}", asked, MODEL)
                assert reply.id == "mine"
                found.append(list({o.name: o for o in reply.outputs}["probabilities"].as_numpy()[:, 1]))
        return found

    for found in asyncio.run(ask()):
        assert found == pytest.approx(expected(X), abs=1e-5)


def test_kserves_grpc_client_gets_the_answers(live: Live) -> None:
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def ask() -> Any:
        async with InferenceGRPCClient(live.grpc) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready(MODEL)
            tensor = InferInput("x", list(X.shape), "FP32")
            tensor.set_data_from_numpy(X)
            raw = await client.infer(InferRequest(MODEL, [tensor], "mine", parameters={"device_key": DEVICE}))
            listed = InferInput("x", list(X.shape), "FP32", data=X.ravel().tolist())
            return raw, await client.infer(InferRequest(MODEL, [listed]))

    raw, listed = asyncio.run(ask())
    assert raw.id == "mine"
    for reply in (raw, listed):
        assert {o.name: o for o in reply.outputs}["probabilities"].as_numpy()[:, 1] == pytest.approx(expected(X), abs=1e-5)
    answer = json.loads({o.name: o for o in raw.outputs}["answer"].as_numpy()[0])
    assert answer["device"]["key"] == DEVICE
    assert answer["digest"] == live.places.by_name[MODEL].holder().package.digest
    assert answer["request_id"] in set(live.records()["request_id"])


KEY = Pseudonymiser(b"a key of the tests only")
WORD, PATIENT = "Gerät 7", "Miller^Jane"


def test_a_hospitals_own_words_by_grpc_are_hashed_as_ingest_hashes_them_and_stand_nowhere(live: Live) -> None:
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    tensor = InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X)

    async def ask(request: Any, **more: Any) -> Any:
        async with InferenceGRPCClient(live.grpc) as asking:
            return await asking.infer(request, **more)

    reply = asyncio.run(ask(InferRequest(MODEL, [tensor], parameters={"device": WORD, "patient": PATIENT, "study": "S 9"})))
    found = [json.loads(text) for text in {o.name: o for o in reply.outputs}["answer"].as_numpy()]
    assert {one["device"]["key"] for one in found} == {device_identity(KEY, key=(WORD,)).key}
    log = live.records()
    rows = log[log["request_id"].isin([one["request_id"] for one in found])]
    assert (set(rows["patient"]), set(rows["study"])) == ({KEY.id("patient", PATIENT)}, {KEY.id("study", "S 9")})
    assert all(word.encode() not in path.read_bytes() for word in (WORD, PATIENT) for path in live.log.iterdir())
    for parameters in ({"device": ""}, {"device": WORD, "device_key": DEVICE}, {"device_key": WORD}, {"patient": "a\nb"}):
        with pytest.raises(grpc.RpcError) as error:
            asyncio.run(ask(InferRequest(MODEL, [tensor], parameters=parameters)))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # pyright: ignore[reportAttributeAccessIssue]
        assert WORD not in str(error.value)
    with pytest.raises(grpc.RpcError) as error:  # said where nobody looks: it would be lost, and erase would not find the patient
        asyncio.run(ask(InferRequest(MODEL, [tensor]), headers=(("x-dxflow-patient", PATIENT),)))
    assert "header X-Dxflow-Patient: only beside a body that is a file" in str(error.value)


@pytest.mark.parametrize("name", OF_FILES)
@pytest.mark.parametrize(("path", "body"), [(PREDICT, v1()), (PREDICT.replace("predict", "explain"), v1()), (INFER, v2())])
def test_what_a_header_says_beside_numbers_is_refused_and_not_lost(live: Live, name: str, path: str, body: dict[str, Any]) -> None:
    """A patient who was named so could not be found again to be erased, and a device so named was nobody's."""
    reply = live.http.post(path, json=body, headers={name: '"7"'})
    assert reply.status_code == 400
    assert reply.json()["error"] == f"header {name}: only beside a body that is a file; allowed: the same in the body, as a field or a parameter"
    assert live.http.post(path, json=body).status_code == 200


def test_our_own_client_says_beside_numbers_what_can_be_said_and_names_what_cannot(live: Live, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X[0])
    (answer,) = predict(f"http://{live.url}", MODEL, tmp_path / "x.npy", device=WORD)
    assert answer["device"]["key"] == device_identity(KEY, key=(WORD,)).key
    with pytest.raises(Refused, match=r"^--row: only beside a body that is a file"):
        predict(f"http://{live.url}", MODEL, tmp_path / "x.npy", row=3)


def test_a_header_that_stands_twice_is_refused(live: Live) -> None:
    headers = [*DICOM.items(), ("X-Dxflow-Patient", "one"), ("x-dxflow-patient", "another")]
    reply = live.http.post(PREDICT, content=ct_slice(image(0)), headers=headers)
    assert (reply.status_code, reply.json()["error"]) == (400, "headers X-Dxflow-*: one of them stands there twice; allowed: each of them once")


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_tritons_clients_find_the_model_and_send_tensors_and_whole_files(live: Live, tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "x.npy", X)
    for n in range(2):
        (tmp_path / f"{n}.dcm").write_bytes(ct_slice(image(n)))
    if kind == "http":
        seen = triton_client.look(kind, live.url, MODEL, BROKEN, tmp_path)
    else:
        command = [sys.executable, "-m", "tests.serving.triton_client", kind, live.grpc, MODEL, BROKEN, str(tmp_path)]
        seen = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert (seen["live"], seen["ready"], seen["models"]) == (True, True, [True, False])
    assert seen["server"]["name"] == "dxflow"
    x, *files = seen["metadata"]["inputs"]
    assert ("application/dicom", "BYTES") in {(f["name"], f["datatype"]) for f in files}
    assert (x["name"], x["datatype"], [int(n) for n in x["shape"]]) == ("x", "FP32", [-1, 1, 52, 52])
    assert [o["name"] for o in seen["metadata"]["outputs"]] == ["probabilities", "decision", "abstain", "answer"]
    assert seen["metadata"]["versions"] == [live.places.by_name[MODEL].holder().package.version]
    assert [p[1] for p in seen["probabilities"]] == pytest.approx(expected(X), abs=1e-5)
    assert seen["abstain"] == [False] * 3
    assert seen["only"] == [True, ["malignant" if p >= 0.4 else "benign" for p in expected(X)]]
    probabilities, answers = seen["files"]
    raw = [live.http.post(PREDICT, content=ct_slice(image(n)), headers=DICOM).json()["predictions"][0] for n in range(2)]
    assert [p[1] for p in probabilities] == pytest.approx([a["probabilities"]["malignant"] for a in raw], abs=1e-6)
    assert {a["device"]["manufacturer"] for a in answers} == {"SIEMENS"}
    assert list(live.records().set_index("request_id").loc[[a["request_id"] for a in answers], "source"]) == ["dicom", "dicom"]
    codes = {"http": ["404", "503", "400", "400"], "grpc": ["NOT_FOUND", "UNAVAILABLE", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]}[kind]
    assert [status.removeprefix("StatusCode.") for status, _ in seen["errors"]] == codes
    assert "no such output" in seen["errors"][2][1]


def test_curl_sends_v1_json_v1_raw_and_v2(live: Live, tmp_path: Path) -> None:
    (tmp_path / "v1.json").write_text(json.dumps(v1()))
    (tmp_path / "v2.json").write_text(json.dumps(v2(X[:1])))
    (tmp_path / "slice.dcm").write_bytes(ct_slice(image()))
    json_ = ["-H", "Content-Type: application/json"]
    dicom = [word for name, value in DICOM.items() for word in ("-H", f"{name}: {value}")]

    def curl(path: str, body: Path, headers: list[str]) -> Any:
        command = ["curl", "-s", "-S", "--fail-with-body", "--data-binary", f"@{body}", *headers, f"http://{live.url}{path}"]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    answer = curl(PREDICT, tmp_path / "v1.json", json_)["predictions"][0]
    assert answer["probabilities"]["malignant"] == pytest.approx(expected(X)[0], abs=1e-6)
    assert curl(PREDICT, tmp_path / "slice.dcm", dicom)["predictions"][0]["device"]["manufacturer"] == "SIEMENS"
    outputs = {o["name"]: o["data"] for o in curl(INFER, tmp_path / "v2.json", json_)["outputs"]}
    assert outputs["probabilities"][1] == pytest.approx(expected(X)[0], abs=1e-5)


def test_a_model_that_does_not_load_is_not_ready_and_says_why_while_the_others_answer(live: Live) -> None:
    assert live.http.get("/v2/health/ready").status_code == 200
    for path in (f"/v2/models/{BROKEN}/ready", f"/v1/models/{BROKEN}"):
        reply = live.http.get(path)
        assert (reply.status_code, "file of the model package was changed" in reply.json()["error"]) == (503, True)
    assert live.http.post(f"/v1/models/{BROKEN}:predict", json=v1()).status_code == 503
    assert live.http.post(PREDICT, json=v1()).status_code == 200
    metrics = live.metrics()
    assert (metrics[f'dxflow_model_ready{{model="{MODEL}"}}'], metrics[f'dxflow_model_ready{{model="{BROKEN}"}}']) == (1, 0)
    assert any(name.startswith(f'dxflow_model_failing{{model="{BROKEN}",reason="') for name in metrics)


def infer_message(model: str = MODEL, x: np.ndarray = X[:1], **changes: Any) -> Any:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32"}
    return pb.ModelInferRequest(**({"model_name": model, "inputs": [tensor], "raw_input_contents": [x.tobytes()]} | changes))


def test_grpc_has_a_status_for_every_error_and_never_a_message_of_the_request(live: Live) -> None:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    def bytes_(*parts: bytes) -> dict[str, Any]:
        return {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES"}], "raw_input_contents": [b"".join(parts)]}

    cases = {
        "another model": (infer_message(PERSON), "NOT_FOUND"),
        "not loaded": (infer_message(BROKEN), "UNAVAILABLE"),
        "another version": (infer_message(model_version="9"), "UNIMPLEMENTED"),
        "short": (infer_message(raw_input_contents=[b"1234"]), "INVALID_ARGUMENT"),
        "no contents": (infer_message(raw_input_contents=[]), "INVALID_ARGUMENT"),
        "two contents": (infer_message(raw_input_contents=[b"", b""]), "INVALID_ARGUMENT"),
        "datatype": (infer_message(inputs=[{"name": "x", "shape": [1, 1, 52, 52], "datatype": PERSON}]), "INVALID_ARGUMENT"),
        "output": (infer_message(outputs=[{"name": PERSON}]), "INVALID_ARGUMENT"),
        "no file": (infer_message(**bytes_(struct.pack("<I", 14), PERSON.encode()[:14])), "INVALID_ARGUMENT"),
        "element cut": (infer_message(**bytes_(struct.pack("<I", 99), PERSON.encode())), "INVALID_ARGUMENT"),
        "huge element": (infer_message(**bytes_(b"\xff\xff\xff\xff")), "INVALID_ARGUMENT"),
    }
    before = len(live.records())
    with grpc.insecure_channel(live.grpc) as channel:
        stub = service.GRPCInferenceServiceStub(channel)
        for name, (message, status) in cases.items():
            with pytest.raises(grpc.RpcError) as raised:
                stub.ModelInfer(message)
            assert raised.value.code().name == status, name
            assert "Miller" not in raised.value.details(), name
        for call, message in (
            (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name=MODEL)),
            (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name=MODEL)),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                call(message)
            assert raised.value.code().name == "UNIMPLEMENTED"
        reply, done = stub.ModelInfer.with_call(infer_message())
        assert reply.model_version == live.places.by_name[MODEL].holder().package.version
        assert dict(done.initial_metadata())["x-request-id"] == live.records().iloc[-1]["request_id"]
    assert len(live.records()) == before + len(cases) - 2 + 1  # of models that are not there, nothing is written


def test_grpc_takes_messages_beyond_its_own_default_of_4_mib(live: Live) -> None:
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    file = ct_slice(image(0, size=1600))
    assert len(file) > 5_000_000
    message = infer_message(inputs=[{"name": "x", "shape": [1], "datatype": "BYTES"}], raw_input_contents=[struct.pack("<I", len(file)) + file])
    for name in ("row", "column"):
        message.parameters[name].int64_param = 800
    with grpc.insecure_channel(live.grpc) as channel:
        assert json.loads(service.GRPCInferenceServiceStub(channel).ModelInfer(message).raw_output_contents[3][4:])["abstain"] is False


def inside_are(live: Live, n: int = 0) -> None:
    for _ in range(6000):
        if live.turns.inside == n:
            return
        threading.Event().wait(0.02)
    raise AssertionError("it never came")


def test_a_message_above_the_limit_is_refused_written_down_and_counted_and_one_at_the_limit_is_not(live: Live) -> None:
    """Above twice the limit gRPC refuses it unread: nobody knows then which model was asked."""
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    limit, counted = BODY + ENVELOPE, f'dxflow_requests_total{{model="{MODEL}",status="refused"}}'
    before, refused = len(live.records()), live.metrics().get(counted, 0)
    with grpc.insecure_channel(live.grpc) as channel:

        def said(size: int) -> str:
            """What becomes of a message of so many bytes."""
            message = infer_message(x=X[:0], model_version="9" * size)
            message.model_version = "9" * (2 * size - message.ByteSize())
            assert message.ByteSize() == size
            with pytest.raises(grpc.RpcError) as raised:
                service.GRPCInferenceServiceStub(channel).ModelInfer(message)
            return f"{raised.value.code().name} {raised.value.details()}"

        assert said(limit).startswith("UNIMPLEMENTED")  # it came in: what is wrong with it is that there is no such version
        for size in (limit + 1, 2 * limit):
            assert said(size) == f"RESOURCE_EXHAUSTED message: larger than allowed; allowed: {limit} bytes"
        assert said(2 * limit + 1).startswith("RESOURCE_EXHAUSTED")
    new = live.records().iloc[before:]
    assert list(new["status"]) == ["refused"] * 3
    assert [reasons[0].split(";")[0] for reasons in new["reasons"]][1:] == ["message: larger than allowed"] * 2
    assert live.metrics()[counted] == refused + 3


def asking(live: Live, n: int) -> tuple[list[int], list[threading.Thread]]:
    """n clients that send one request each; where their status will be."""
    replies: list[int] = []
    clients = [threading.Thread(target=lambda: replies.append(live.http.post(PREDICT, json=v1()).status_code)) for _ in range(n)]
    for one in clients:
        one.start()
    return replies, clients


def test_probes_are_answered_while_a_model_is_at_work(live: Live, gated: Gated) -> None:
    replies, (client,) = asking(live, 1)
    assert gated.begun.acquire(timeout=300)
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready", "/metrics", "/"):
        assert live.http.get(path).status_code == 200
    assert replies == []
    gated.go_on.release()
    client.join()
    assert replies == [200]


def test_beyond_the_queue_a_request_is_429_on_http_and_resource_exhausted_on_grpc_and_the_others_are_answered(live: Live, gated: Gated) -> None:
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    before = len(live.records())
    replies, clients = asking(live, 3)
    assert gated.begun.acquire(timeout=300)
    inside_are(live, 3)
    refused = live.http.post(PREDICT, content=b" " * (8 << 20), headers={"Content-Type": "application/json"})
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    with grpc.insecure_channel(live.grpc) as channel, pytest.raises(grpc.RpcError) as raised:
        service.GRPCInferenceServiceStub(channel).ModelInfer(infer_message())
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert live.http.get("/v2/health/ready").status_code == 200
    assert replies == []
    for _ in clients:
        gated.go_on.release()
    for one in clients:
        one.join()
    assert replies == [200] * 3
    new = live.records().iloc[before:]
    assert sorted(new["status"]) == ["answered"] * 3 + ["unanswered"] * 2
    assert refused.json()["request_id"] in set(new["request_id"])


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_request_whose_deadline_passed_is_answered_so_and_never_computed(live: Live, gated: Gated, kind: str) -> None:
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    before, late = len(live.records()), live.turns.counts["late"]
    replies, (client,) = asking(live, 1)
    assert gated.begun.acquire(timeout=300)
    if kind == "http":
        reply = live.http.post(INFER, json=v2(), headers={"X-Dxflow-Deadline-Ms": "200"})
        assert (reply.status_code, reply.json()["error"]) == (504, "the deadline passed before the request's turn")
    else:
        with grpc.insecure_channel(live.grpc) as channel:
            grpc.channel_ready_future(channel).result(300)
            with pytest.raises(grpc.RpcError) as raised:
                service.GRPCInferenceServiceStub(channel).ModelInfer(infer_message(x=X), timeout=2)
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    inside_are(live, 1)  # a client of gRPC knows before the server that its deadline passed
    assert replies == []
    gated.go_on.release()
    client.join()
    assert replies == [200]
    for _ in range(2):  # the next request finds the thread free, so the late one had its chance
        gated.go_on.release()
        assert live.http.post(PREDICT, json=v1()).status_code == 200
    assert gated.samples == 3
    new = live.records().iloc[before:]
    assert sorted(new["status"]) == ["answered"] * 3 + ["unanswered"]
    if kind == "http":
        assert live.turns.counts["late"] == late + 1
        assert new[new["status"] == "unanswered"].iloc[0]["request_id"] == reply.json()["request_id"]


def test_a_client_that_never_ends_its_body_is_told_so_at_its_deadline_and_gives_its_place_back(live: Live) -> None:
    host, port = live.url.split(":")
    lines = [f"POST {PREDICT} HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 100", "X-Dxflow-Deadline-Ms: 300", "", "{"]
    with socket.create_connection((host, int(port)), timeout=300) as raw:
        raw.sendall("\r\n".join(lines).encode())
        reply = b"".join(iter(lambda: raw.recv(1000), b""))
    assert reply.startswith(b"HTTP/1.1 504")
    inside_are(live)
    assert live.records().iloc[-1]["status"] == "unanswered"


@pytest.mark.parametrize("text", ["0", "-5", "soon", "1e3", PERSON])
def test_a_deadline_that_is_none_is_400(live: Live, text: str) -> None:
    reply = live.http.post(PREDICT, json=v1(), headers={"X-Dxflow-Deadline-Ms": text})
    assert (reply.status_code, reply.json()["error"]) == (400, "header X-Dxflow-Deadline-Ms: not a number of milliseconds above 0")


def test_bytes_of_v2_are_checked_before_they_are_read(live: Live) -> None:
    def ask(raw: bytes, shape: list[int], **parameters: Any) -> Any:
        head = {"name": "x", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw), **parameters}}
        text = json.dumps({"inputs": [head]}).encode()
        return live.http.post(INFER, content=text + raw, headers={"Inference-Header-Content-Length": str(len(text))})

    file = ct_slice(image())
    framed, text_file = struct.pack("<I", len(file)) + file, struct.pack("<I", 14) + PERSON.encode()[:14]
    assert ask(framed, [1], row=100, column=99).status_code == 200
    for reply, text in (
        (ask(framed, [1]), "inputs[0].parameters.row: missing"),
        (ask(framed, [1], row=1000, column=9), "inputs[0].parameters.row: outside the image"),
        (ask(framed, [2], row=100, column=99), "inputs[0].data: another number of elements than its shape"),
        (ask(framed[:-1], [1]), "inputs[0].data: an element that is longer than the tensor"),
        (ask(framed + b"\1", [1]), "inputs[0].data: an element that is longer than the tensor"),
        (ask(b"\0\0\0\0" * 300, [300]), "inputs[0].shape: number of samples out of range"),
        (ask(b"", [0]), "inputs[0].shape: number of samples out of range"),
        (ask(text_file, [1], content_type="application/dicom"), "inputs[0].data[0]: not a DICOM file"),
        (ask(text_file, [1]), "inputs[0].data[0]: not a file that this model takes"),
        (ask(framed, [1], content_type=PERSON), "inputs[0].data[0]: not a file that this model takes"),
    ):
        assert reply.status_code == (415 if "that this model takes" in text else 400), reply.text
        assert reply.json()["error"].startswith(text), reply.text
        assert "Miller" not in reply.text


def test_at_a_stop_requests_in_progress_are_answered(live: Live, gated: Gated) -> None:
    """The last test: it ends the server."""
    import signal

    replies, (client,) = asking(live, 1)
    assert gated.begun.acquire(timeout=300)
    live.server.handle_exit(signal.SIGTERM, None)
    while live.server.servers[0].is_serving():
        threading.Event().wait(0.05)
    assert replies == []
    gated.go_on.release()
    client.join()
    assert replies == [200]
