"""A client that hangs up is no fault of the server's: no error in the log, none in the figures. And what probes ask: versions, HEAD."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

from serving.sources import from_folder
from tests.serving.live_server import Gated, Live, running
from tests.serving.small_package import build, lung_nodule, reference

MODEL = "lung-nodule"
PATH = f"/v1/models/{MODEL}:predict"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("gone")
    package = build(root / "package", lung_nodule(normalise={"method": "range"}), reference({"0" * 16: ("SIEMENS", "SOMATOM")}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(root / "home"))
        with running([from_folder(package.folder)], root / "log") as found:
            yield found


def head(path: str, length: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n{length}\r\n\r\n".encode()


def broken_off(live: Live, data: bytes) -> None:
    port = int(live.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(data)


def gone(live: Live) -> int:
    return live.turns.counts["gone"]


def until(live: Live, n: int) -> None:
    for _ in range(600):
        if gone(live) >= n:
            return
        time.sleep(0.02)


def test_an_upload_that_is_broken_off_is_no_error(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    before, records = gone(live), len(live.records())
    with caplog.at_level(logging.INFO, "dxflow.serving"):
        for length in ("Content-Length: 500000", "Transfer-Encoding: chunked"):
            for _ in range(5):
                broken_off(live, head(PATH, length) + (b"3\r\nabc\r\n" if "chunked" in length else b"abc"))
        until(live, before + 10)
    for _ in range(600):
        if len(live.records()) == records + 10:
            break
        time.sleep(0.02)
    new = live.records().iloc[records:]
    assert list(new["status"]) == ["unanswered"] * 10
    assert {tuple(reasons) for reasons in new["reasons"]} == {("the client hung up before its request had come",)}
    own = [record for record in caplog.records if record.name == "dxflow.serving"]
    assert [record.levelname for record in own] == ["INFO"] * 10
    found = live.metrics()
    assert found['dxflow_requests_turned_away_total{reason="gone"}'] == before + 10
    assert f'dxflow_requests_total{{model="{MODEL}",status="error"}}' not in found
    assert live.turns.inside == 0


BODY = b'{"instances": [{"array": [[1, 2], [3, 4]]}]}'


@settings(max_examples=25, phases=[Phase.generate], deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    cut=st.integers(0, len(BODY) - 1), path=st.sampled_from([PATH, f"/v2/models/{MODEL}/infer", "/v1/models/none:predict"]), more=st.integers(0, 999)
)
def test_wherever_it_is_broken_off_it_is_no_error(live: Live, cut: int, path: str, more: int) -> None:
    before = live.metrics()
    broken_off(live, head(path, f"Content-Length: {len(BODY) + more}") + BODY[:cut])
    assert live.http.get("/v2/health/live").status_code == 200
    after = live.metrics()
    assert [name for name in after if 'status="error"' in name or 'status="refused"' in name] == [
        name for name in before if 'status="error"' in name or 'status="refused"' in name
    ]


def test_a_grpc_client_that_hangs_up_is_no_error_and_not_late(live: Live, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    package = build(tmp_path / "package", lung_nodule(normalise={"method": "range"}), reference({"0" * 16: ("SIEMENS", "SOMATOM")}))
    place = live.places.by_name[MODEL]
    gate, own = Gated(package), place.predictor
    before, records = gone(live), len(live.records())
    x = np.full((1, 1, 52, 52), -700, "<f4")
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=list(x.shape))
    request = pb.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[x.tobytes()])
    place.predictor = gate
    try:
        with grpc.insecure_channel(live.grpc) as channel, caplog.at_level(logging.INFO, "dxflow.serving"):
            call = service.GRPCInferenceServiceStub(channel).ModelInfer.future(request, timeout=300)
            assert gate.begun.acquire(timeout=60)
            call.cancel()
            until(live, before + 1)
            gate.go_on.release()
    finally:
        place.predictor = own
    for _ in range(600):
        if len(live.records()) > records:
            break
        time.sleep(0.02)
    new = live.records().iloc[records:]
    assert [(row["status"], list(row["reasons"])) for _, row in new.iterrows()] == [
        ("unanswered", ["the client hung up before its request had come"])
    ]
    assert [r.levelname for r in caplog.records if r.name == "dxflow.serving"] == ["INFO"]


def test_readiness_is_of_the_version_that_is_asked(live: Live) -> None:
    version = live.places.by_name[MODEL].holder().package.version
    other = f"{version}9"
    with grpc.insecure_channel(live.grpc) as channel:
        stub = service.GRPCInferenceServiceStub(channel)
        asked = [stub.ModelReady(pb.ModelReadyRequest(name=MODEL, version=v), timeout=60).ready for v in ("", version, other)]
    assert asked == [True, True, False]
    paths = [f"/v2/models/{MODEL}/ready", *(f"/v2/models/{MODEL}/versions/{v}/ready" for v in (version, other))]
    assert [live.http.get(path).status_code for path in paths] == [200, 200, 501]
    assert live.http.get(f"/v2/models/{MODEL}/versions/{version}").json()["versions"] == [version]
    assert live.http.get(f"/v2/models/{MODEL}/versions/{other}").status_code == 501
    assert live.http.get("/v2/models/none/versions/1/ready").status_code == 404


@pytest.mark.parametrize("path", ["/", "/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready", f"/v2/models/{MODEL}", "/metrics"])
def test_head_is_answered_wherever_get_is_without_a_body(live: Live, path: str) -> None:
    reply = live.http.head(path)
    assert (reply.status_code, reply.content) == (live.http.get(path).status_code, b"")
    assert live.http.get("/v2/health/live").status_code == 200  # the connection goes on


def test_head_of_what_only_takes_posts_asks_no_model(live: Live) -> None:
    records = len(live.records()[lambda rows: rows["status"] == "answered"])
    assert live.http.head(PATH).status_code == live.http.get(PATH).status_code == 404
    assert len(live.records()[lambda rows: rows["status"] == "answered"]) == records
