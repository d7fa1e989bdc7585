"""KServe's events in, records out: durable before the acknowledgement, each once, and nothing of a patient."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import psutil
import pytest

from components.core.errors import DataError
from components.core.inference_log import InferenceLog, compact, read_log
from components.core.package import ModelPackage
from components.core.pseudonym import Pseudonymiser
from serving import cloud_events
from serving.collected import OTHER_REASON, UNREADABLE, Collected
from serving.collector import Collector
from serving.group_commit import GroupCommit
from serving.predictor import Predictor, Query
from tests.serving.small_dicom import MARKS, PERSON, image
from tests.serving.small_package import build, lung_nodule, reference
from tests.serving.small_server import Process, free_port, started

DEVICE = "0123456789abcdef"
TABLE = reference({DEVICE: ("SIEMENS", "SOMATOM FORCE")}, patients=3)
REQUEST, RESPONSE = (f"org.kubeflow.serving.inference.{half}" for half in ("request", "response"))
SOURCE = "http://localhost:9081/"
ANSWER = {
    "request_id": "c" * 32, "model": "lung-nodule", "version": "3", "digest": "d" * 64, "disease": "lung-nodule", "synthetic": False,
    "probabilities": {"benign": 0.25, "malignant": 0.75}, "decision": "malignant", "abstain": False, "reasons": [],
    "device": {"key": DEVICE, "manufacturer": "SIEMENS", "model": "SOMATOM FORCE", "status": "known", "profile": "ok"}, "operating_point": {},
}  # fmt: skip


def package(folder: Path) -> ModelPackage:
    return build(folder, lung_nodule(normalise={"method": "range", "missing_profile": "abstain"}), TABLE)


def answer(n: int, **changes: Any) -> dict[str, Any]:
    return ANSWER | {"request_id": f"{n:032x}"} | changes


def event(n: int | str, kind: str = RESPONSE, data: Any = None, **changes: Any) -> dict[str, Any]:
    """A structured event; `changes` set or (None) delete attributes."""
    body = {"predictions": [answer(n if isinstance(n, int) else 0)]} if data is None and kind == RESPONSE else data
    whole = {"specversion": "1.0", "id": f"id-{n}", "source": SOURCE, "type": kind, "time": "2026-03-01T10:00:00.123456789Z", "data": body}
    whole |= {"inferenceservicename": "lung-nodule", "namespace": "default", "component": "predictor", "endpoint": "", "metadata": "{}"} | changes
    return {name: value for name, value in whole.items() if value is not None}


def as_binary(document: dict[str, Any]) -> dict[str, Any]:
    """The same event in binary mode, made by the CloudEvents project's own library."""
    from cloudevents.conversion import to_binary
    from cloudevents.http import CloudEvent

    attributes = {name: value for name, value in document.items() if name != "data"}
    headers, body = to_binary(CloudEvent(attributes | {"datacontenttype": "application/json"}, document["data"]))
    return {"headers": headers, "content": body}


def batch(*documents: Any) -> dict[str, Any]:
    return {"headers": {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}, "content": orjson.dumps(list(documents))}


def single(document: Any) -> dict[str, Any]:
    return {"headers": {"Content-Type": "application/cloudevents+json"}, "content": orjson.dumps(document)}


def clean(text: str) -> bool:
    return not any(mark in text.lower() for mark in MARKS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collector")
    package(folder / "p")
    return folder


@pytest.fixture
def collected(root: Path) -> Collected:
    return Collected([ModelPackage.open(root / "p")], Pseudonymiser(b"a key of the tests only"))


def code(root: Path, port: int) -> str:
    return (
        "from pathlib import Path; from serving.collector import collect; "
        f"collect([Path({str(root / 'p')!r})], port={port}, allow_synthetic=False, log=Path({str(root / 'log')!r}))"
    )


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Process]:
    with started(code(root, port := free_port()), root, port=port, ready="/healthz") as process:
        yield process


def post(server: Process, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    reply = httpx.post(server.url, timeout=30, **request)
    assert clean(reply.text)
    return reply.status_code, reply.json()


def logged(server: Process, **columns: Any) -> Any:
    table = read_log(server.log)
    for name, value in columns.items():
        table = table[table[name] == value]
    return table.reset_index(drop=True)


def test_both_halves_of_a_request_in_binary_mode_are_one_row_with_its_latency_and_size(server: Process) -> None:
    """As KServe's agent sends them, PascalCase headers and all; the response's clock says 250 ms later."""
    asked = event(1, REQUEST, {"instances": [{"dicom_base64": PERSON}]}, id="PID-4711")
    told = event(1, id="PID-4711", time="2026-03-01T10:00:00.373456+00:00")
    for half in (asked, told):
        assert post(server, as_binary(half)) == (200, {"taken": 1, "duplicates": 0, "refused": 0})
    (row,) = logged(server, request_id=f"{1:032x}").to_dict("records")
    assert row["latency_ms"] == pytest.approx(250, abs=0.01)
    assert row["request_bytes"] == len(as_binary(asked)["content"])
    assert (row["model"], row["version"], row["digest"], row["status"], row["source"]) == ("lung-nodule", "3", "d" * 64, "answered", "cloudevent")
    assert (row["score_malignant"], row["decision"], row["device_key"], row["manufacturer"]) == (0.75, "malignant", DEVICE, "SIEMENS")
    assert row["time"].isoformat() == "2026-03-01T10:00:00.373456+00:00"


def test_a_request_without_a_response_stays_as_unanswered(server: Process) -> None:
    assert post(server, single(event(2, REQUEST, {"instances": []})))[0] == 200
    assert logged(server, status="unanswered")["request_bytes"].tolist() == [len(b'{"instances":[]}')]


def test_an_event_counts_once_however_and_how_often_it_comes(server: Process) -> None:
    both = [event(3, REQUEST, {}), event(3)]
    assert post(server, batch(*both, *both))[1] == {"taken": 2, "duplicates": 2, "refused": 0}
    for again in (single(both[1]), as_binary(both[0]), batch(*both)):
        status, told = post(server, again)
        assert (status, told["taken"], told["refused"]) == (200, 0, 0)
    assert len(logged(server, request_id=f"{3:032x}")) == 1


def test_the_bad_events_of_a_batch_are_refused_and_the_others_taken(server: Process) -> None:
    status, told = post(server, batch(event(4), PERSON, event(5, time=PERSON), event(6)))
    assert (status, told["taken"], told["refused"]) == (400, 2, 2)
    assert told["error"] == "events[1]: not a CloudEvent; allowed: a JSON object"
    assert len(logged(server, request_id=f"{4:032x}")) == len(logged(server, request_id=f"{6:032x}")) == 1


BASE64 = {"data": None, "data_base64": PERSON}
BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "no CloudEvent": ({"content": PERSON, "headers": {"Content-Type": "text/plain"}}, 415, "header Content-Type: no CloudEvents"),
    "no JSON": (single(1) | {"content": f"{{{PERSON}"}, 400, "body: not JSON"),
    "no batch": (batch() | {"content": json.dumps({"id": PERSON})}, 400, "body: not a batch"),
    "a list, not an event": (single([PERSON]), 400, "body: not a CloudEvent"),
    "another version": (single(event(0, specversion="0.3")), 400, "specversion: another version of CloudEvents; allowed: 1.0"),
    "another type": (single(event(0, type=PERSON)), 400, "type: another type of event"),
    "no id": (single(event(0, id=None)), 400, "id: missing"),
    "an id of another kind": (single(event(0, id={"name": PERSON})), 400, "id: missing"),
    "an endless id": (single(event(0, id=PERSON * 100)), 400, "id: too long; got 1500 characters"),
    "no source": (single(event(0, source="")), 400, "source: missing"),
    "another service": (single(event(0, inferenceservicename="miller")), 400, "inferenceservicename: another service; allowed: lung-nodule"),
    "time a name": (single(event(0, time=PERSON)), 400, "time: not a time"),
    "time without a zone": (single(event(0, time="2026-03-01T10:00:00.123456")), 400, "time: not a time"),
    "time of nobody": (single(event(0, time="0001-01-01T00:00:00Z")), 400, "time: not a time"),
    "no base64": (single(event(0, **BASE64)), 400, "data_base64: not base64"),
    "binary without type": ({"content": PERSON, "headers": {"ce-specversion": "1.0", "ce-id": PERSON}}, 400, "header ce-type: missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_event_is_one_line_that_names_the_attribute_and_echoes_nothing(server: Process, case: str) -> None:
    request, status, text = BAD[case]
    before = server.metrics()['dxflow_collector_events_total{result="refused"}']
    found, told = post(server, request)
    assert (found, told["taken"]) == (status, 0)
    assert told["error"].startswith(text)
    assert "\n" not in told["error"]
    assert server.metrics()['dxflow_collector_events_total{result="refused"}'] == before + 1


def test_it_listens_on_loopback_only_and_offers_nothing_else(server: Process) -> None:
    listening = [c.laddr for c in psutil.Process(server.process.pid).connections("inet") if c.status == psutil.CONN_LISTEN]
    assert [a.ip for a in listening] == ["127.0.0.1"]
    assert httpx.get(server.url).status_code == httpx.post(f"{server.url}/{PERSON}").status_code == 404


def test_on_a_full_disk_nothing_is_acknowledged_and_what_comes_again_later_is_taken_once(server: Process) -> None:
    """A limit of file sizes stands in for the full disk, with room for a part of the record."""
    segment = max(server.log.glob("*.log"))
    process = psutil.Process(server.process.pid)
    unlimited = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (segment.stat().st_size + 100, unlimited[1]))
    for _ in range(2):
        assert post(server, batch(event(7), event(8))) == (503, {"taken": 0, "error": "the log cannot be written, send it again"})
    process.rlimit(psutil.RLIMIT_FSIZE, unlimited)
    assert post(server, batch(event(7), event(8)))[1]["taken"] == 2
    assert server.metrics()['dxflow_collector_events_total{result="unwritten"}'] == 4
    table = logged(server)
    assert table.attrs["damaged"] == 0
    assert table["request_id"].tolist().count(f"{7:032x}") == table["request_id"].tolist().count(f"{8:032x}") == 1


def test_kill_9_loses_no_acknowledged_event_and_a_restart_takes_none_twice(server: Process, root: Path) -> None:
    acknowledged: list[int] = []
    enough = threading.Event()

    def sender(first: int) -> None:
        with httpx.Client(timeout=30) as connection:
            for n in range(first, first + 10_000):
                try:
                    reply = connection.post(server.url, **single(event(n)))
                except httpx.TransportError:
                    return
                assert reply.status_code == 200
                acknowledged.append(n)
                if len(acknowledged) > 200:
                    enough.set()

    senders = [threading.Thread(target=sender, args=(100_000 * (n + 1),)) for n in range(8)]
    for thread in senders:
        thread.start()
    assert enough.wait(60)
    server.process.kill()
    for thread in senders:
        thread.join()
    server.process.wait()
    found = read_log(server.log)["request_id"].tolist()
    wanted = {f"{n:032x}" for n in acknowledged}
    assert wanted <= set(found)
    with started(code(root, port := free_port()), root, port=port, ready="/healthz") as again:
        assert post(again, batch(*(event(n) for n in acknowledged)))[1]["taken"] == len(acknowledged)  # it does not remember, the reader does
        assert sorted(read_log(again.log)["request_id"]) == sorted(found)
    compact(server.log)
    assert sorted(read_log(server.log)["request_id"]) == sorted(found)
    kept = b"".join(p.read_bytes() for p in [*server.log.glob("*"), server.output])
    assert clean(kept.decode("utf-8", "replace"))
    assert SOURCE.encode() not in kept


def test_an_event_reads_the_same_in_every_mode() -> None:
    document = event(1, source="http://x/Grün?a=%41")
    raw = {name: value for name, value in document.items() if name != "data"} | {
        "data_base64": base64.b64encode(orjson.dumps(document["data"])).decode()
    }
    text = document | {"data": orjson.dumps(document["data"]).decode()}
    sent = as_binary(document)
    headers = {name.lower(): value for name, value in sent["headers"].items()} | {"ce-source": "http://x/Gr%C3%BCn?a=%2541"}
    binary = cloud_events.from_binary(headers, len(sent["content"]), sent["content"])
    assert cloud_events.from_structured(raw) == cloud_events.from_structured(text)
    for other in (cloud_events.from_structured(document), binary):
        assert (other.id, other.source, other.time, other.body) == (
            "id-1",
            "http://x/Grün?a=%41",
            "2026-03-01T10:00:00.123456+00:00",
            document["data"],
        )


def test_what_the_predictor_answers_is_kept_as_the_server_would_have(collected: Collected, root: Path) -> None:
    predictor = Predictor(ModelPackage.open(root / "p"), None)
    patch = image()[:52, :52][None].astype(np.float32)
    answers = predictor.answer([Query(patch, DEVICE), Query(np.zeros_like(patch), "f" * 16)])
    for n, own in enumerate(answers):
        own["request_id"] = f"{'a' * 32}-{n}"
    v1 = {"predictions": answers}
    v2 = {"outputs": [{"name": "answer", "datatype": "BYTES", "shape": [2], "data": [orjson.dumps(a).decode() for a in answers]}]}
    first, second = (collected.records(cloud_events.from_structured(event(1, data=body)), "k", "") for body in (v1, v2))
    assert first == second
    assert [r["request_id"] for r in first] == [a["request_id"] for a in answers]
    assert [r["scores"] for r in first] == [a["probabilities"] for a in answers]
    assert [(r["status"], r["abstain"], r["decision"], r["reasons"]) for r in first] == [
        ("answered", False, answers[0]["decision"], []),
        ("abstained", True, None, ["image without content"]),
    ]
    assert [(r["device_key"], r["manufacturer"], r["device_status"], r["profile"], r["version"]) for r in first] == [
        (DEVICE, "SIEMENS", "known", "not needed", predictor.package.version),
        ("f" * 16, None, "unseen", "not needed", predictor.package.version),
    ]


PLANTED: dict[str, Any] = {
    "request_id": PERSON, "version": PERSON, "digest": PERSON, "reasons": [PERSON], "patient": PERSON,
    "device": {"key": DEVICE, "manufacturer": PERSON, "model": PERSON, "status": PERSON, "profile": PERSON},
}  # fmt: skip


@pytest.mark.parametrize("field", PLANTED)
def test_a_name_where_a_word_or_a_hash_belongs_becomes_a_hash_or_nothing(collected: Collected, field: str) -> None:
    (record,) = collected.records(cloud_events.from_structured(event(1, data={"predictions": [answer(1, **{field: PLANTED[field]})]})), "k" * 16, "")
    assert clean(json.dumps(record))
    assert record["scores"] == ANSWER["probabilities"]
    if field == "device":
        assert record["manufacturer"].startswith("other-")
    if field == "reasons":
        assert record["reasons"] == [OTHER_REASON]
    if field == "request_id":
        assert record["request_id"] == "k" * 16


@pytest.mark.parametrize("body", [
    None, [], PERSON, 5, {}, {"predictions": [[0.2, 0.8]]}, {"predictions": {"a": 1}}, {"outputs": [{"name": "answer", "data": [PERSON]}]},
    {"predictions": [answer(1, probabilities={PERSON: 0.5})]}, {"predictions": [answer(1, probabilities={"benign": 2})]},
    {"predictions": [answer(1, decision=PERSON)]}, {"predictions": [answer(1, decision={})]}, {"predictions": [answer(1, model="skin-lesion")]},
    {"predictions": [answer(1, device={"key": PERSON})]}, {"predictions": [ANSWER] * 300}, {"predictions": [answer(1, abstain="no")]},
])  # fmt: skip
def test_a_response_that_is_no_answer_of_the_model_is_one_record_without_scores(collected: Collected, body: Any) -> None:
    sent = event(1) | {"data": body}
    (record,) = collected.records(cloud_events.from_structured(sent), "k" * 16, "2026-01-01T00:00:00+00:00")
    assert (record["status"], record["reasons"], record["request_id"]) == ("answered", [UNREADABLE], "k" * 16)
    assert "scores" not in record
    assert clean(json.dumps(record))


def test_ids_are_told_apart_by_every_byte_and_by_their_source(collected: Collected) -> None:
    keys = [collected.key(cloud_events.from_structured(event(1, id=i, source=s))) for i, s in (("a", "x"), ("A", "x"), ("a ", "x"), ("a", "y"))]
    assert len(set(keys)) == 4
    assert collected.key(cloud_events.from_structured(event(1, REQUEST, {}, id="a", source="x"))) == keys[0]


def ask(app: Collector, headers: dict[str, str], chunks: list[bytes]) -> Any:
    """One POST through the application; returns (status, answer)."""
    sent: list[Any] = []

    async def work() -> None:
        waiting = iter([{"type": "http.request", "body": chunk, "more_body": n + 1 < len(chunks)} for n, chunk in enumerate(chunks)])

        async def receive() -> Any:
            return next(waiting)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
        await app(scope, receive, send)

    asyncio.run(work())
    return sent[0]["status"], orjson.loads(sent[1]["body"])


def test_bodies_are_limited_one_by_one_and_together_and_a_requests_body_is_never_held(collected: Collected, tmp_path: Path) -> None:
    with InferenceLog(tmp_path) as log, ThreadPoolExecutor(1) as executor:
        app = Collector(collected, GroupCommit(log.write, executor), limit=2000, held=1000)
        structured = {"content-type": cloud_events.STRUCTURED}
        assert ask(app, structured, [b" " * 500] * 5)[0] == 503
        asked = {name.lower(): value for name, value in as_binary(event(1, REQUEST, {}))["headers"].items()}
        assert ask(app, asked, [PERSON.encode() * 100])[0] == 200
        assert ask(app, asked | {"ce-id": "other"}, [PERSON.encode() * 100] * 2)[0] == 413
        assert ask(app, structured, [orjson.dumps(event(2))])[0] == 200  # nothing of the others is still held
        assert app.counts == {"taken": 2, "duplicate": 0, "refused": 1, "unwritten": 1}
    table = read_log(tmp_path)
    assert table["request_bytes"].dropna().tolist() == [1500]


def test_nothing_is_acknowledged_before_its_write_returns_and_who_waits_shares_the_next_one(tmp_path: Path) -> None:
    """The first write is held up; 50 senders come meanwhile, and one more write takes them all."""
    entered, go = threading.Event(), threading.Event()
    sizes: list[int] = []

    class Slow(InferenceLog):
        def write(self, records: Any) -> None:
            sizes.append(len(records))
            entered.set()
            assert go.wait(10)
            super().write(records)

    async def work(commit: GroupCommit) -> None:
        senders = [asyncio.create_task(commit.write([{"request_id": "r0"}]))]
        await asyncio.to_thread(entered.wait, 10)
        senders += [asyncio.create_task(commit.write([{"request_id": f"r{n}"}])) for n in range(1, 51)]
        await asyncio.sleep(0.05)
        assert not any(sender.done() for sender in senders)
        assert len(read_log(tmp_path)) == 0
        go.set()
        await asyncio.gather(*senders)

    with Slow(tmp_path) as log, ThreadPoolExecutor(1) as executor:
        asyncio.run(work(GroupCommit(log.write, executor)))
    assert sizes == [1, 50]
    assert list(read_log(tmp_path)["request_id"]) == [f"r{n}" for n in range(51)]


def test_a_package_that_is_synthetic_is_collected_only_where_that_was_said(root: Path, tmp_path: Path) -> None:
    from components.core.errors import GateError
    from serving.collector import collect

    made = build(tmp_path / "s", lung_nodule(), TABLE, synthetic=True)
    with pytest.raises(GateError, match="trained on synthetic data"):
        collect([made.folder], port=free_port(), allow_synthetic=False, log=tmp_path / "log")
    found = Collected([made], Pseudonymiser(b"a key of the tests only"))
    sent = cloud_events.from_structured(event(1, REQUEST, {}, inferenceservicename="synthetic-lung-nodule"))
    assert found.records(sent, "k", "")[0]["model"] == "synthetic/lung-nodule"
    with pytest.raises(DataError, match="another service"):
        found.records(cloud_events.from_structured(event(1, inferenceservicename="Lung-Nodule")), "k", "")
