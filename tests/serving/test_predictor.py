"""A predictor without a server: what it answers, what it needs, and what it refuses to start with."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.errors import DataError, DxflowError, GateError, ServiceError, SpecError
from serving.errors import Guard
from serving.options import Options
from serving.places import Places
from serving.predictor import Predictor, Query
from serving.server import serve
from serving.sources import from_folder
from tests.serving.small_dicom import PERSON, image
from tests.serving.small_package import GAIN, MIDDLE, build, lung_nodule, onnx_bytes, reference
from tests.serving.small_server import free_port

DEVICE = "0123456789abcdef"
TABLE = reference({DEVICE: ("SIEMENS", "SOMATOM FORCE")}, patients=3)
RANGE = {"method": "range", "missing_profile": "abstain"}


def query(seed: int = 0, **changes: Any) -> Query:
    return replace(Query(image(seed)[:52, :52][None].astype(np.float32), DEVICE), **changes)


def test_without_device_normalisation_no_profile_is_needed(tmp_path: Path) -> None:
    predictor = Predictor(build(tmp_path / "p", lung_nodule(normalise=RANGE), TABLE), None)
    known, unseen = predictor.answer([query(1), query(2, device_key="f" * 16)])
    x = (query(1).array.mean() + 1000) / 1400
    assert known["probabilities"]["malignant"] == pytest.approx(1 / (1 + np.exp(-GAIN * (x - MIDDLE))), abs=1e-4)
    assert (known["device"]["status"], unseen["device"]["status"]) == ("known", "unseen")
    assert (known["device"]["manufacturer"], unseen["device"]["manufacturer"]) == ("SIEMENS", None)
    assert (known["abstain"], unseen["abstain"], unseen["device"]["profile"]) == (False, False, "not needed")


def test_answers_keep_their_order_when_some_abstain(tmp_path: Path) -> None:
    predictor = Predictor(build(tmp_path / "p", lung_nodule(normalise=RANGE), TABLE), None)
    alone = [predictor.answer([query(n)])[0]["probabilities"]["malignant"] for n in range(4)]
    flat = query(array=np.full((1, 52, 52), -1000, dtype=np.float32))
    mixed = predictor.answer([query(0), flat, query(1), query(2), flat, query(3)])
    assert [a["abstain"] for a in mixed] == [False, True, False, False, True, False]
    assert [a["probabilities"]["malignant"] for a in mixed if not a["abstain"]] == pytest.approx(alone, abs=1e-6)


def test_a_device_that_names_itself_nowhere_never_borrows_a_profile(tmp_path: Path) -> None:
    class Everything:
        """A store that has a profile for any key at all."""

        def get(self, device_key: str, *, max_age_days: float) -> Any:
            raise AssertionError("asked for the profile of nobody")

    predictor = Predictor(build(tmp_path / "p", lung_nodule(), TABLE), Everything())  # type: ignore[arg-type]
    (answer,) = predictor.answer([query(device_key="unknown")])
    assert (answer["abstain"], answer["reasons"]) == (True, ["device without profile"])


@pytest.mark.parametrize("missing", ["abstain", "pooled"])
def test_a_profile_store_that_is_away_is_no_unseen_device(tmp_path: Path, missing: str) -> None:
    """Nothing listens at the store's address. No decision, also where a device without a profile would get the pooled one; the reason is its own."""
    from feature_store.redis_online import RedisAddress, RedisPlace
    from feature_store.store import OnlineProfiles

    spec = lung_nodule(normalise={"method": "device", "missing_profile": missing})
    profiles = OnlineProfiles(RedisPlace(RedisAddress("127.0.0.1", free_port()), spec.name))
    known, unseen, nameless = Predictor(build(tmp_path / "p", spec, TABLE), profiles).answer(
        [query(1), query(2, device_key="f" * 16), query(3, device_key="unknown")]
    )
    for answer in (known, unseen):
        assert (answer["abstain"], answer["decision"], answer["probabilities"]) == (True, None, {})
        assert (answer["reasons"], answer["device"]["profile"]) == (["profile store unavailable"], "unavailable")
    assert [a["device"]["status"] for a in (known, unseen)] == ["known", "unseen"]
    assert nameless["reasons"] == [("" if missing == "abstain" else "pooled profile used: ") + "device without profile"]


def test_a_family_of_hand_made_features_is_fed_its_features(tmp_path: Path) -> None:
    """model.json names the features; the graph then takes (n, 28) and here returns the first two as scores."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from components.core.features import hand28

    pick = np.zeros((28, 2), dtype=np.float32)
    pick[0, 0] = pick[1, 1] = 1
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "pick"], ["scores"])],
        "features",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 28])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(pick, "pick")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    package = build(tmp_path / "p", lung_nodule(normalise=RANGE), TABLE, onnx=model.SerializeToString(), facts={"feature_name": "hand28"})
    x = np.clip((query().array[None] + 1000) / 1400, 0, 1).astype(np.float32)
    a, b = hand28.features(x)[0, :2]
    (answer,) = Predictor(package, None).answer([query()])
    assert answer["probabilities"]["malignant"] == pytest.approx(1 / (1 + np.exp(a - b)), abs=1e-5)


def test_the_predictor_needs_neither_torch_nor_kserve_nor_feast(tmp_path: Path) -> None:
    folder = build(tmp_path / "p", lung_nodule(normalise=RANGE), TABLE).folder
    code = (
        "import sys; from components.core.package import ModelPackage; from serving.predictor import Predictor\n"
        f"Predictor(ModelPackage.open({str(folder)!r}), None)\n"
        "print(sorted({'torch', 'kserve', 'feast', 'mlflow', 'evidently', 'kfp'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("case", "kind", "text"),
    [
        ("changed", DataError, "file of the model package was changed"),
        ("graph", DataError, r"model\.onnx: ONNX graph does not load"),
        ("shape", DataError, r"ONNX graph does not run on the spec's input"),
        ("synthetic", GateError, "trained on synthetic data"),
        ("twice", SpecError, "two models of one disease on one server; got lung-nodule"),
        ("nothing", DataError, "not a model package"),
    ],
)
def test_a_server_that_can_serve_no_model_does_not_start(tmp_path: Path, case: str, kind: type[DxflowError], text: str) -> None:
    spec = lung_nodule(normalise=RANGE)
    if case == "graph":
        build(tmp_path / "p", spec, TABLE, onnx=b"no graph")
    elif case == "shape":
        build(tmp_path / "p", spec, TABLE, onnx=onnx_bytes((1, 52, 53)))
    elif case != "nothing":
        build(tmp_path / "p", spec, TABLE, synthetic=case == "synthetic")
    if case == "changed":
        (tmp_path / "p" / "model.onnx").write_bytes(onnx_bytes((1, 52, 52)) + b"\0")
    sources = [from_folder(tmp_path / "p")] * (2 if case == "twice" else 1)
    with pytest.raises(kind, match=text):
        serve(sources, Options(port=free_port(), log=tmp_path / "log"))
    assert not (tmp_path / "log").exists()


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServiceError, match="cannot listen"):
            serve([], Options(port=taken.getsockname()[1], log=tmp_path / "log"))


def test_models_of_two_diseases_may_share_a_server(tmp_path: Path) -> None:
    folders = [build(tmp_path / name, lung_nodule(name=name, normalise=RANGE), TABLE).folder for name in ("lung-one", "lung-two")]
    assert set(Places([from_folder(folder) for folder in folders], allow_synthetic=False).by_name) == {"lung-one", "lung-two"}


def through(app: Any) -> list[dict[str, Any]]:
    """What the guard sends for one request to `app`."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": PERSON.encode(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "path": "/v1/models/x:predict", "headers": [(b"x-request-id", PERSON.encode())]}
    asyncio.run(Guard(app)(scope, receive, send))
    return sent


def test_a_defect_is_an_id_for_the_client_and_a_place_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError((await receive())["body"])

    with caplog.at_level(logging.ERROR):
        start, body = through(broken)
    assert start["status"] == 500
    request_id = dict(start["headers"])[b"x-request-id"].decode()
    assert request_id in body["body"].decode()
    assert request_id in caplog.text
    assert "ValueError at test_predictor.py" in caplog.text
    assert "Miller" not in str(start) + str(body) + caplog.text
