"""What the server writes down of each request, with room on the disk and without, and what a kill leaves."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from components.core.inference_log import InferenceLog, read_log, summary
from components.core.package import ModelPackage
from serving.errors import Guard
from serving.journal import Journal
from serving.predictor import Predictor
from tests.serving.small_dicom import PERSON, image
from tests.serving.small_package import build, lung_nodule, onnx_bytes, reference
from tests.serving.small_server import Process, free_port, serving, started

DEVICE = "0123456789abcdef"
TABLE = reference({DEVICE: ("SIEMENS", "SOMATOM FORCE")}, patients=3)
PATH = "/v1/models/lung-nodule:predict"


def package(folder: Path) -> ModelPackage:
    """A model that needs no profile and gives the mean of its input as the embedding."""
    spec = lung_nodule(normalise={"method": "range", "missing_profile": "abstain"})
    return build(folder, spec, TABLE, onnx=onnx_bytes(tuple(spec.input.shape), embedding=True))


def patch(seed: int) -> np.ndarray:
    return image(seed)[:52, :52][None]


def instances(*seeds: int) -> dict[str, Any]:
    return {"instances": [{"array": patch(seed).tolist(), "device_key": DEVICE} for seed in seeds]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    root = tmp_path_factory.mktemp("journal")
    package(root / "p")
    with serving_from(root) as process:
        yield process


def serving_from(root: Path) -> AbstractContextManager[Process]:
    port = free_port()
    return started(serving([root / "p"], root / "log", port=port), root, port=port, ready="/v2/health/ready")


def ask(server: Process, *seeds: int) -> list[str]:
    reply = httpx.post(server.url + PATH, json=instances(*seeds), timeout=30)
    assert reply.status_code == 200, reply.text
    return [answer["request_id"] for answer in reply.json()["predictions"]]


def test_on_a_full_disk_answers_go_out_and_each_lost_record_is_counted_at_once(server: Process) -> None:
    """A limit of file sizes stands in for the full disk (tests/core/test_inference_log.py has a real one); it comes once the server is up."""
    written = ask(server, 1, 2, 3)
    segment = next(server.log.glob("*.log"))
    process = psutil.Process(server.process.pid)
    unlimited = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (segment.stat().st_size + 100, unlimited[1]))  # so that the next record fits in part
    for _ in range(2):
        assert len(ask(server, 4, 5, 6)) == 3
    assert httpx.post(server.url + PATH, json={"instances": PERSON}, timeout=30).status_code == 400
    told = summary(server.log)  # of a server that is still there, and may be killed now
    assert (told["records"], told["damaged"], told["lost"]) == (3, 0, 7)
    assert told["alarms"] == [f"7 answers are not in the log: it could not be written from {told['lost_since']} to {told['lost_until']}"]
    found = server.metrics()
    assert found["dxflow_inference_log_lost_total"] == 7
    assert found['dxflow_requests_total{model="lung-nodule",status="answered"}'] == 9
    assert found['dxflow_requests_total{model="lung-nodule",status="refused"}'] == 1

    process.rlimit(psutil.RLIMIT_FSIZE, unlimited)
    written += ask(server, 7)
    table = read_log(server.log)
    assert list(table["request_id"]) == written
    assert (table.attrs["damaged"], table.attrs["lost"]) == (0, 7)
    assert server.metrics()["dxflow_inference_log_lost_total"] == 7
    output = server.output.read_text()
    assert output.count("answers go out, their records are lost and counted") == 1
    assert "Miller" not in output


def test_a_record_holds_the_embedding_where_the_model_offers_one(server: Process) -> None:
    (own,) = ask(server, 8)
    table = read_log(server.log)
    vector = table[table["request_id"] == own].iloc[0]["embedding"]
    assert vector.dtype == np.float32
    assert vector == pytest.approx([(patch(8).mean() + 1000) / 1400], abs=1e-5)


def test_kill_9_under_load_and_a_restart_leave_every_answered_request_in_the_log_exactly_once(server: Process) -> None:
    """Eight clients ask without a pause; the process is killed while they wait. Beside what was answered only what each waited for may be there."""
    before = set(read_log(server.log)["request_id"])
    answered: list[str] = []

    def client(seed: int) -> None:
        with httpx.Client(timeout=300) as connection:
            while True:
                try:
                    reply = connection.post(server.url + PATH, json=instances(seed, seed + 1))
                except httpx.TransportError:
                    return
                answered.extend(a["request_id"] for a in reply.json()["predictions"])
                if len(answered) > 400:
                    enough.set()

    enough = threading.Event()
    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in clients:
        thread.start()
    assert enough.wait(300)
    server.process.kill()
    for thread in clients:
        thread.join()
    server.process.wait()
    logged = read_log(server.log)
    new = set(logged["request_id"]) - before
    assert set(answered) <= new
    assert len(new - set(answered)) <= 8 * 2
    assert logged["request_id"].is_unique
    with serving_from(server.log.parent) as again:  # it compacts what the dead one left, while it answers
        after = ask(again, 1)
        for _ in range(6000):
            if list(server.log.glob("*.parquet")):
                break
            time.sleep(0.02)
        table = read_log(server.log)
    assert list(table["request_id"]) == [*logged["request_id"], *after]
    assert (table.attrs["damaged"], table.attrs["lost"]) == (logged.attrs["damaged"], logged.attrs["lost"])


def through(app: Any, journal: Journal, path: str) -> None:
    """One request through the guard."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": PERSON.encode(), "more_body": False}

    async def send(message: Any) -> None:
        pass

    asyncio.run(Guard(app, journal=journal)({"type": "http", "path": path, "headers": []}, receive, send))


@pytest.mark.parametrize(("path", "n"), [(PATH, 1), ("/v2/models/lung-nodule/infer", 1), ("/v1/models/Miller:predict", 0), ("/v2/health/live", 0)])
def test_a_defect_is_one_record_of_the_model_that_was_asked(tmp_path: Path, path: str, n: int) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError((await receive())["body"])

    with InferenceLog(tmp_path / "log") as log:
        through(broken, Journal(log, [Predictor(package(tmp_path / "p"), None)]), path)
    table = read_log(tmp_path / "log")
    assert list(table["status"]) == ["error"] * n
    assert b"Miller" not in next((tmp_path / "log").glob("*.log")).read_bytes()


def test_a_sample_without_an_answer_by_a_defect_is_logged_with_its_device(tmp_path: Path) -> None:
    from components.core.pseudonym import Pseudonymiser
    from serving.model import DiseaseModel
    from serving.places import Place
    from serving.sources import from_folder
    from serving.tickets import Ticket
    from serving.turns import Turns

    class Broken(Predictor):
        def work(self, queries: Any) -> Any:
            raise ValueError(PERSON)

    with InferenceLog(tmp_path / "log") as log, Turns(1) as turns:
        journal = Journal(log)
        folder = package(tmp_path / "p").folder
        place = Place(from_folder(folder), lambda source: Broken(ModelPackage.open(source.fetch()), None), journal.serves)
        assert place.renew()
        model = DiseaseModel(place, Pseudonymiser(b"a key of the tests only"), journal, turns)
        with pytest.raises(ValueError, match="Miller"):
            asyncio.run(model.v1(Ticket("r", 60), json.dumps(instances(1, 2)).encode(), {}))
    table = read_log(tmp_path / "log")
    assert list(table["request_id"]) == ["r-0", "r-1"]
    assert list(table["status"]) == ["error"] * 2
    assert list(table["device_key"]) == [DEVICE] * 2
    assert "Miller" not in table.to_json()


def test_a_request_is_written_down_once_whoever_comes_first_its_answer_or_its_clients_end(tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        predictor = Predictor(package(tmp_path / "p"), None)
        journal, gone = Journal(log, [predictor]), threading.Event()
        answered = {"model": predictor.package.name, "status": "answered", "latency_ms": 1.0}
        assert journal.write("first", [answered | {"request_id": "first"}], gone)
        asyncio.run(journal.settle("first", "lung-nodule", 504, "late", time.perf_counter()))
        gone.set()
        asyncio.run(journal.settle("second", "lung-nodule", 504, "late", time.perf_counter()))
        journal.forget("second")
        assert not journal.write("second", [answered | {"request_id": "second"}], gone)
        assert journal._settled == {"first"}
    assert list(read_log(tmp_path / "log")["status"]) == ["answered", "unanswered"]
    assert dict(journal.counts) == {(predictor.package.name, "answered"): 1, (predictor.package.name, "unanswered"): 1}


def test_requests_that_come_while_the_disk_is_busy_share_the_next_write_and_one_bad_record_spoils_no_other(tmp_path: Path) -> None:
    begun, go_on, sizes = threading.Semaphore(0), threading.Semaphore(0), []

    class Slow(InferenceLog):
        def append(self, records: Any) -> bool:
            sizes.append(len(records))
            begun.release()
            assert go_on.acquire(timeout=300)
            return super().append(records)

    def record(n: int) -> dict[str, Any]:
        return {"request_id": f"r{n}", "model": "m", "status": "answered", "latency_ms": float("nan") if n == 3 else 1.0}

    with Slow(tmp_path / "log") as log, ThreadPoolExecutor(6) as pool:
        journal = Journal(log)
        asked = [pool.submit(journal.write, "r0", [record(0)])]
        assert begun.acquire(timeout=300)
        for n in range(1, 6):
            asked.append(pool.submit(journal.write, f"r{n}", [record(n)]))
            while journal._disk.waiting < n:
                threading.Event().wait(0.005)
        assert not any(one.done() for one in asked)
        for _ in range(10):
            go_on.release()
        found = [one.exception(300) for one in asked]
    assert [type(error) for error in found] == [type(None)] * 3 + [ValueError] + [type(None)] * 2
    assert sizes == [1, 5, *[1] * 5]
    assert list(read_log(tmp_path / "log")["request_id"]) == ["r0", "r1", "r2", "r4", "r5"]
