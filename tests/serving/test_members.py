"""Several processes of one server: they share the port, their figures add up, and none of them is missed for long."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from components.core.errors import ServiceError, SpecError
from components.core.inference_log import read_log
from serving.members import Member
from serving.options import Options
from serving.server import SHARED, bind, reserved
from serving.shared_metrics import Family, Shared
from tests.serving.small_package import build, lung_nodule, reference
from tests.serving.small_server import ROOT, Process, free_port, free_ports, serving, started

PATH = "/v1/models/lung-nodule:predict"
BODY = {"instances": [{"array": [[[-500.0] * 52] * 52]}]}


def until(true: Callable[[], bool], what: str, within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def members(server: Process) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def numbers(server: Process) -> set[str]:
    """Of the processes whose figures are told."""
    return set(re.findall(r'dxflow_requests_inside{process="(\d+)"}', httpx.get(f"{server.url}/metrics", timeout=30).text))


def python(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    own = {"DXFLOW_HOME": str(root / "home"), "DXFLOW_KEY": "a key of the tests only"}
    arguments = [sys.executable, "-c", code]
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=os.environ | own, timeout=60, check=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    folder = build(tmp_path / "package", lung_nodule(normalise={"method": "range"}), reference({"0" * 16: ("SIEMENS", "X")})).folder
    port = free_port()
    with started(serving([folder], tmp_path / "log", port=port, processes=2), tmp_path, port=port, ready="/v2/health/ready") as running:
        until(lambda: numbers(running) == {"1", "2"}, "the second process did not come up")
        yield running
        running.process.terminate()
        running.process.wait(30)


def counted(server: Process) -> float:
    """Samples answered by any of them."""
    return sum(value for name, value in server.metrics().items() if name.startswith("dxflow_requests_total{"))


def answers(server: Process) -> bool:
    """Whether a connection is answered soon: those that a stopped process is given are not."""
    try:
        return httpx.get(f"{server.url}/v2/health/live", timeout=1).status_code == 200
    except httpx.TransportError:
        return False


def ask(server: Process) -> int:
    """On a connection of its own: the kernel gives it to one of the processes."""
    return httpx.post(server.url + PATH, json=BODY, timeout=30).status_code


def test_both_answer_each_writes_its_log_and_the_figures_are_of_all(server: Process) -> None:
    assert len(members(server)) == 2
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: ask(server), range(60))) == {200}
    records = read_log(server.log)
    assert len(records) == len(set(records["request_id"])) == 60
    assert [path.stat().st_size > 0 for path in server.log.rglob("*.log")] == [True, True]
    until(lambda: [counted(server) for _ in range(8)] == [60] * 8, "the figures of both processes do not add up, whichever is asked")


def test_one_that_is_killed_is_started_again_and_the_other_answers_meanwhile(server: Process) -> None:
    before = members(server)
    os.kill(before[1].pid, signal.SIGKILL)
    until(lambda: before[1].pid not in {p.pid for p in members(server)}, "it was not buried")
    assert [ask(server) for _ in range(20)] == [200] * 20
    until(lambda: len(members(server)) == 2, "it was not started again")
    assert "is started again" in server.output.read_text()
    os.kill(before[0].pid, signal.SIGSTOP)  # what is answered now is the new one's
    try:
        until(lambda: answers(server), "the new one does not answer")
    finally:
        os.kill(before[0].pid, signal.SIGCONT)


def test_no_sum_falls_when_one_is_started_again(server: Process) -> None:
    assert [ask(server) for _ in range(40)] == [200] * 40
    until(lambda: [counted(server) for _ in range(8)] == [40] * 8, "the figures do not add up")
    before = members(server)
    os.kill(before[1].pid, signal.SIGKILL)
    seen = []
    while len({p.pid for p in members(server)} - {p.pid for p in before}) == 0 or numbers(server) != {"1", "2"}:
        seen.append(counted(server))
        time.sleep(0.1)
    assert set(seen) <= {40}
    assert counted(server) == 40


def test_none_outlives_the_process_that_started_them(server: Process) -> None:
    below = members(server)
    server.process.kill()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in below), "a process stayed")


def test_sigterm_ends_all_and_the_port_is_free(server: Process) -> None:
    below = members(server)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert not any(p.is_running() for p in below)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/v2/health/live")


def test_what_stops_the_first_is_told_once(tmp_path: Path) -> None:
    code = serving([tmp_path / "none"], tmp_path / "log", port=free_port(), processes=3)
    caught = "except DxflowError as error:\n    sys.exit(f'told: {error}')"
    whole = f"import sys\nfrom components.core.errors import DxflowError\ntry:\n    {code}\n{caught}"
    done = python(whole, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("told: ") == 1
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told_before_anything_starts(server: Process, tmp_path: Path) -> None:
    port = int(server.url.rpartition(":")[2])
    code = serving([tmp_path / "package"], tmp_path / "other", port=port, processes=2)
    done = python(code, tmp_path)
    assert "cannot listen: Address already in use" in done.stderr


def test_counters_add_up_and_gauges_stay_apart(tmp_path: Path) -> None:
    def figures(answered: float, inside: float) -> list[Family]:
        return [
            {"name": "a", "type": "counter", "help": "", "samples": [["a_total", {"x": 'a "b"'}, answered], ["a_total", {"x": "2"}, 7]]},
            {"name": "g", "type": "gauge", "help": "", "samples": [["g", {}, inside]]},
            {"name": "h", "type": "histogram", "help": "", "samples": [["h_bucket", {"le": "+Inf"}, 2], ["h_count", {}, 2], ["h_sum", {}, 3]]},
        ]

    one, two = (Shared(Member(number, tmp_path, 0), lambda n=number: figures(20 * n, n)) for number in (1, 2))
    two.tell()
    lines = one.page().decode().splitlines()
    for expected in (
        'a_total{x="a \\"b\\""} 60.0', 'a_total{x="2"} 14.0', 'g{process="1"} 1.0', 'g{process="2"} 2.0', 'h_bucket{le="+Inf"} 4.0', "h_count 4.0",
        "h_sum 6.0",
    ):  # fmt: skip
        assert expected in lines
    again = Shared(Member(2, tmp_path, 0), lambda: figures(5, 9))  # in the place of the second, which ended
    for _ in range(3):
        lines = again.page().decode().splitlines()
    assert 'a_total{x="a \\"b\\""} 65.0' in lines
    assert 'g{process="2"} 9.0' in lines


def test_of_a_process_that_is_gone_only_sums_are_told(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    figures = [{"name": n, "type": t, "help": "", "samples": [[s, {}, 3]]} for n, t, s in (("a", "counter", "a_total"), ("g", "gauge", "g"))]
    (tmp_path / "2.json").write_text(json.dumps([gone.pid, figures]))
    lines = Shared(Member(1, tmp_path, 0), list).page().decode().splitlines()
    assert "a_total 3.0" in lines
    assert not any(line.startswith("g{") for line in lines)


def test_over_grpc_all_of_them_answer_too(tmp_path: Path) -> None:
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    folder = build(tmp_path / "package", lung_nodule(normalise={"method": "range"}), reference({"0" * 16: ("SIEMENS", "X")})).folder
    port, beside = free_ports(2)
    code = serving([folder], tmp_path / "log", port=port, grpc_port=beside, processes=2)
    with started(code, tmp_path, port=port, ready="/v2/health/ready") as running:
        until(lambda: numbers(running) == {"1", "2"}, "the second process did not come up")
        before = members(running)
        for _ in range(20):
            with grpc.insecure_channel(f"127.0.0.1:{beside}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                assert service.GRPCInferenceServiceStub(channel).ServerReady(messages.ServerReadyRequest(), timeout=20).ready
        assert members(running) == before
        assert "started again" not in running.output.read_text()
        running.process.terminate()
        assert running.process.wait(30) == 0


def test_loading_anew_is_for_one_process(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="in one process only"):
        Options(log=tmp_path, admin=True, processes=2)
    with pytest.raises(SpecError, match="--processes"):
        Options(log=tmp_path, processes=0)


def test_a_port_that_members_will_share_is_no_other_servers() -> None:
    """While the first of them still loads nobody listens there."""
    port = free_port()
    with reserved("127.0.0.1", port):
        with pytest.raises(ServiceError, match="cannot listen"):
            bind("127.0.0.1", port)
        with pytest.raises(ServiceError, match="cannot listen"):
            reserved("127.0.0.1", port)
        bind("127.0.0.1", port, SHARED).close()


def test_pages_asked_for_at_once_and_without_a_place_for_them(tmp_path: Path) -> None:
    """While the figures are told every second too; and when the others cannot get them any more."""
    figures: list[Family] = [{"name": "a", "type": "counter", "help": "", "samples": [["a_total", {}, 3]]}]
    folder = tmp_path / "members"
    folder.mkdir()
    one = Shared(Member(1, folder, 0), lambda: figures)
    with one.telling(), ThreadPoolExecutor(8) as pool:
        assert {b"a_total 3.0" in page for page in pool.map(lambda _: one.page(), range(400))} == {True}
    shutil.rmtree(folder)
    assert b"a_total 3.0" in one.page()
