"""The registry over a real MLflow database."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from components.core import registry
from components.core.errors import GateError, SpecError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_registry: Path):
    """A fresh copy of an empty database: making its tables takes seconds."""
    (tmp_path / "mlflow.db").write_bytes(empty_registry.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        assert registry.names() == []
    return path


def test_asking_leaves_no_address_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_registry: Path):
    """MLflow puts the address it is given there, where it would win over the next `DXFLOW_HOME`."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mlflow.db").write_bytes(empty_registry.read_bytes())
        monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / name))
        assert registry.names() == []
        put(name)
        assert registry.names() == [name]
        assert "MLFLOW_TRACKING_URI" not in os.environ


def put(name: str = "lung-nodule", digest: str = "d1", *, verdict: str = "pass", alias: str | None = None, **changes: Any) -> registry.Version:
    facts = {
        "uri": f"file:///store/models/{digest}",
        "reasons": [] if verdict == "pass" else ["AUC too low"],
        "synthetic": name.startswith("synthetic/"),
        "tags": {},
    }
    return registry.register(name, digest=digest, verdict=verdict, alias=alias, **(facts | changes))


def test_mlflow_still_refuses_a_slash_in_names():
    """The reason why `synthetic/x` is `synthetic.x` there; when this fails, the mapping can go."""
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="cannot contain"):
        registry.client().create_registered_model("synthetic/lung-nodule")


def test_names_go_there_and_back():
    put("synthetic/lung-nodule")
    put("lung-nodule")
    assert registry.names() == ["lung-nodule", "synthetic/lung-nodule"]
    assert registry.find("synthetic/lung-nodule", version="1").name == "synthetic/lung-nodule"


def test_one_digest_is_one_version():
    first, again, other = put(digest="d1"), put(digest="d1"), put(digest="d2")
    assert (first.version, again.version, other.version) == ("1", "1", "2")
    assert [v.version for v in registry.versions("lung-nodule")] == ["2", "1"]


def test_champion_moves_to_the_newest_that_passed():
    put(digest="d1", alias="champion")
    put(digest="d2", verdict="fail")
    assert registry.resolve("lung-nodule") == "file:///store/models/d1"
    put(digest="d3", alias="champion")
    assert registry.find("lung-nodule").digest == "d3"
    assert registry.find("lung-nodule", version="1").aliases == ()


@pytest.mark.parametrize(("name", "verdict"), [("lung-nodule", "fail"), ("lung-nodule", "insufficient evidence"), ("synthetic/lung-nodule", "pass")])
def test_champion_is_refused_to_what_did_not_earn_it(name: str, verdict: str):
    with pytest.raises(GateError, match="may not be champion"):
        put(name, verdict=verdict, alias="champion")
    assert registry.names() == []


def test_no_champion_says_why():
    put(verdict="fail")
    with pytest.raises(GateError, match="model lung-nodule: no champion: version 1 is 'fail'; got AUC too low"):
        registry.resolve("lung-nodule")


def test_what_is_not_there_lists_what_is():
    with pytest.raises(SpecError, match="no such model; got 'lung-nodule'; allowed: none is registered"):
        registry.resolve("lung-nodule")
    put(alias="champion")
    with pytest.raises(SpecError, match="got 'brain'; allowed: lung-nodule"):
        registry.resolve("brain")
    with pytest.raises(SpecError, match="got :7; allowed: @champion, :1"):
        registry.resolve("lung-nodule", version="7")


def test_a_moved_store_is_found_at_its_new_place_and_back():
    for place in ("file:///a/models/d1", "s3://bucket/models/d1", "file:///a/models/d1"):
        assert put(uri=place).version == "1"
        assert registry.resolve("lung-nodule", version="1") == place


def test_a_quote_in_a_name_finds_nothing():
    put()
    with pytest.raises(SpecError, match="no such model"):
        registry.resolve("x' OR name LIKE '%")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path):
    """MLflow's own server over a copy of the empty database."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_registry.read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--workers",
        "1",
        "--port",
        str(port),
    ]
    command += ["--default-artifact-root", str(folder / "artifacts")]
    with open(folder / "log.txt", "w") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while True:
            assert child.poll() is None, (folder / "log.txt").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < end, "the MLflow server did not start"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_a_registry_server_takes_packages_of_a_folder_store(server: str, monkeypatch: pytest.MonkeyPatch):
    """MLflow's server refuses `file://` as a source; its database alone does not."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    put(digest="d1", alias="champion")
    assert put(digest="d1").version == "1"
    assert registry.resolve("lung-nodule") == "file:///store/models/d1"
    put("synthetic/lung-nodule", uri="s3://bucket/models/d2", alias="candidate")
    assert registry.resolve("synthetic/lung-nodule", alias="candidate") == "s3://bucket/models/d2"


def test_two_processes_may_open_a_new_database_at_once(tmp_path: Path):
    """As the branches of a comparison do; MLflow alone makes half of its tables in each and fails."""
    code = "from components.core import registry; registry.client(); print(registry.names())"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/new.db"}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    for process in both:
        stdout, stderr = process.communicate(timeout=120)
        assert (process.returncode, stdout.strip()) == (0, "[]"), stderr[-500:]
