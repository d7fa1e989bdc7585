"""Models are replaced while clients ask: by the registry's alias and by the admin's verb, without a lost request or an answer of two models."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from components.core import registry
from components.core.package import ModelPackage
from components.core.storage import open_store
from pipelines import models
from serving.sources import from_folder
from tests.serving.live_server import Live, running
from tests.serving.small_dicom import image
from tests.serving.small_package import GAIN, MIDDLE, build, lung_nodule, onnx_bytes, reference

DEVICE = "0123456789abcdef"
TABLE = reference({DEVICE: ("SIEMENS", "SOMATOM FORCE")}, patients=3)
MODEL, BESIDE = "lung-nodule", "lung-beside"
X = np.stack([image(n)[:52, :52][None] for n in range(2)]).astype(np.float32)
CLIENTS = 6


def made(folder: Path, gain: float, name: str = MODEL) -> ModelPackage:
    spec = lung_nodule(name=name, normalise={"method": "range", "missing_profile": "abstain"})
    return build(folder, spec, TABLE, onnx=onnx_bytes(tuple(spec.input.shape), gain=gain))


def expected(gain: float) -> list[float]:
    """P(malignant) of X by hand, of the model of that gain."""
    mean = np.clip((X.astype(float) + 1000) / 1400, 0, 1).mean(axis=(1, 2, 3))
    return list(1 / (1 + np.exp(-gain * (mean - MIDDLE))))


def promote(package: ModelPackage) -> str:
    """As register does it: into the store, into the registry, and the alias moves. The URI."""
    uri = open_store().put_folder(package.folder, f"models/{MODEL}/{package.digest}")
    registry.register(MODEL, uri=uri, digest=package.digest, verdict="pass", reasons=[], synthetic=False, tags={}, alias="champion")
    return uri


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("replacement")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(root / "home"))
        for name in ("DXFLOW_STORE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield root


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Live]:
    promote(made(root / "first", GAIN))
    made(root / "beside", GAIN, BESIDE)
    sources = [models.source(MODEL, allow_synthetic=False), models.source(f"file://{root}/beside", allow_synthetic=False)]
    with running(sources, root / "log", poll_s=0.2, admin=True) as server:
        yield server


def by_v1(live: Live, model: str) -> tuple[int, list[Any]]:
    body = {"instances": [{"array": a.tolist(), "device_key": DEVICE} for a in X]}
    reply = live.http.post(f"/v1/models/{model}:predict", json=body)
    return reply.status_code, reply.json().get("predictions", [])


def by_v2(live: Live, model: str) -> tuple[int, list[Any]]:
    raw = X.tobytes()
    tensor = {"name": "x", "shape": list(X.shape), "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "answer"}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    reply = live.http.post(f"/v2/models/{model}/infer", content=head + raw, headers=headers)
    return reply.status_code, [json.loads(a) for a in reply.json()["outputs"][0]["data"]] if reply.status_code == 200 else []


def by_grpc(live: Live, model: str) -> tuple[int, list[Any]]:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    tensor = {"name": "x", "shape": list(X.shape), "datatype": "FP32"}
    message = pb.ModelInferRequest(model_name=model, inputs=[tensor], outputs=[{"name": "answer"}], raw_input_contents=[X.tobytes()])
    with grpc.insecure_channel(live.grpc) as channel:
        raw = service.GRPCInferenceServiceStub(channel).ModelInfer(message).raw_output_contents[0]
    found, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        found.append(json.loads(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    return 200, found


class Load:
    """Clients that ask without a pause, each by its own protocol, until the block ends; what each was answered, in order."""

    def __init__(self, live: Live, model: str) -> None:
        self.replies: list[list[tuple[int, list[Any]]]] = [[] for _ in range(CLIENTS)]
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        ways = (by_v1, by_v2, by_grpc)
        self._threads = [threading.Thread(target=self._work, args=(ways[n % 3], live, model, self.replies[n])) for n in range(CLIENTS)]

    def _work(self, way: Callable[[Live, str], Any], live: Live, model: str, replies: list[Any]) -> None:
        try:
            while not self._stop.is_set():
                replies.append(way(live, model))
        except BaseException as error:
            self.failures.append(error)

    def each_has(self, more: int) -> None:
        """Wait until every client got so many more answers."""
        before = [len(r) for r in self.replies]
        while not all(len(r) >= n + more for r, n in zip(self.replies, before, strict=True)):
            assert not self.failures, self.failures
            self._stop.wait(0.02)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def until(true: Callable[[], bool]) -> None:
    """Minutes, since the machine may be busy; what never comes is a failure, not a test that hangs."""
    for _ in range(6000):
        if true():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it never came")


def test_when_the_alias_moves_the_new_version_answers_and_no_request_is_lost_or_half(live: Live, root: Path) -> None:
    place = live.places.by_name[MODEL]
    old, new = place.holder().package.digest, made(root / "second", GAIN / 4)
    gains = {old: GAIN, new.digest: GAIN / 4}
    with Load(live, MODEL) as load:
        load.each_has(3)
        promote(new)
        until(lambda: place.holder().package.digest == new.digest)
        load.each_has(3)
    assert load.failures == []
    for replies in load.replies:
        order = []
        for status, answers in replies:
            assert status == 200
            (digest,) = {a["digest"] for a in answers}
            order.append(digest)
            assert [a["probabilities"]["malignant"] for a in answers] == pytest.approx(expected(gains[digest]), abs=1e-5)
        assert order == sorted(order, key=[old, new.digest].index), "a client that saw the new version was answered by the old one"
        assert set(order) == {old, new.digest}
    answered = {a["request_id"]: a["digest"] for replies in load.replies for _, answers in replies for a in answers}
    log = live.records().set_index("request_id")["digest"]
    assert log.loc[list(answered)].to_dict() == answered
    assert live.http.get(f"/v2/models/{MODEL}").json()["versions"] == ["2"]


def test_a_new_version_that_does_not_load_leaves_the_old_one_serving_and_says_why(live: Live, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = live.places.by_name[MODEL]
    before = place.holder()
    damaged = made(root / "third", GAIN / 2)
    uri = open_store().put_folder(damaged.folder, f"models/{MODEL}/{damaged.digest}")
    model = Path(uri.removeprefix("file://")) / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    with caplog.at_level(logging.ERROR, "dxflow.serving"):
        registry.register(MODEL, uri=uri, digest=damaged.digest, verdict="pass", reasons=[], synthetic=False, tags={}, alias="champion")
        until(lambda: place.failures >= 3)
    assert place.holder() is before
    told = [r.getMessage() for r in caplog.records if r.name == "dxflow.serving"]
    assert len(told) == 1
    assert told[0].startswith(f"model {MODEL}: version 2 stays: ")
    assert "checksum" in told[0]
    assert live.http.get(f"/v2/models/{MODEL}/ready").status_code == 200
    status, answers = by_v1(live, MODEL)
    assert (status, answers[0]["version"]) == (200, "2")
    metrics = live.metrics()
    assert metrics[f'dxflow_model_ready{{model="{MODEL}"}}'] == 1
    assert [v for name, v in metrics.items() if name.startswith(f'dxflow_model_failing{{model="{MODEL}"') and "checksum" in name] == [1]
    index = {m["name"]: m for m in live.http.post("/v2/repository/index").json()}
    assert (index[MODEL]["state"], index[MODEL]["version"], "checksum" in index[MODEL]["reason"]) == ("READY", "2", True)
    reply = live.http.post(f"/v2/repository/models/{MODEL}/load")
    assert (reply.status_code, "version 2 stays" in reply.json()["error"]) == (503, True)
    promote(made(root / "fourth", GAIN / 3))
    until(lambda: place.holder().package.version == "4")
    assert place.reason is None


def test_the_admins_verb_replaces_a_folders_model_many_times_under_load_and_the_old_ones_are_freed(live: Live, root: Path) -> None:
    import tritonclient.http

    place = live.places.by_name[BESIDE]
    packages = [made(root / f"beside-{n}", GAIN / (n + 1), BESIDE) for n in range(2)]
    taken, old = [], []
    live.places.on_taken.append(taken.append)
    with tritonclient.http.InferenceServerClient(live.url) as client, Load(live, BESIDE) as load:
        for n in range(10):
            old.append(weakref.ref(place.holder()))
            fresh = root / "fresh"
            shutil.copytree(packages[n % 2].folder, fresh)
            (root / "beside").rename(root / f"gone-{n}")
            fresh.rename(root / "beside")
            client.load_model(BESIDE)
            assert place.holder().package.digest == packages[n % 2].digest
            load.each_has(1)
    assert load.failures == []
    assert {status for replies in load.replies for status, _ in replies} == {200}
    seen = [predictor.package.digest for predictor in taken if predictor.package.name == BESIDE]  # the other model may be taken beside it
    taken.clear()
    assert seen == [packages[n % 2].digest for n in range(1, 10)]  # the first is what serves already
    until(lambda: not any(reference() for reference in old))


@pytest.mark.parametrize("path", ["models/lung-nodule/unload", "models/skin/load", "", "models/a/b/load", "models/lung-nodule"])
def test_of_the_repository_only_loading_what_is_served_is_offered(live: Live, path: str) -> None:
    assert live.http.post(f"/v2/repository/{path}").status_code == 404


def test_a_registered_model_that_is_not_there_yet_is_not_ready_until_it_is(live: Live, root: Path) -> None:
    from serving.places import Places

    sources = [models.source(MODEL, allow_synthetic=False), models.source("skin-lesion", allow_synthetic=False)]
    places = Places(sources, allow_synthetic=False)
    absent = places.by_name["skin-lesion"]
    assert absent.predictor is None
    assert "no such model" in (absent.reason or "")
    package = made(root / "skin", GAIN, "skin-lesion")
    uri = open_store().put_folder(package.folder, f"models/skin-lesion/{package.digest}")
    registry.register("skin-lesion", uri=uri, digest=package.digest, verdict="pass", reasons=[], synthetic=False, tags={}, alias="champion")
    assert absent.renew()
    assert (absent.holder().package.digest, absent.reason) == (package.digest, None)
    assert from_folder(root / "skin").current() == package.digest
