"""The registry's own file survives kills while MLflow makes it, and a disk that fails is told as that."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from components.core import registry_file
from components.core.disk_errors import of_disk
from components.core.errors import ServiceError

KILLED_AT = (1, 12, 40, 90, 180)
"""Statements before which the first client dies; a new file takes some two hundred."""
PROGRAM = """
import os, signal, sys
from components.core import registry
import mlflow.store.db.utils, mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
from sqlalchemy import event
from sqlalchemy.engine import Engine

def use(home, most=None):
    child = os.fork()
    if child == 0:
        os.environ["DXFLOW_HOME"] = home
        left = most or 10**9
        @event.listens_for(Engine, "before_cursor_execute")
        def count(*given):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        globals()["left"] = left
        try:
            found = len(registry.client().search_registered_models())
            os._exit(0 if found == 0 else 3)
        except BaseException as error:
            print(type(error).__name__, flush=True)
            os._exit(1)
    return os.waitpid(child, 0)[1]

for n in map(int, sys.argv[2].split(",")):
    home = f"{sys.argv[1]}/{n}"
    os.makedirs(home)
    killed = use(home, n)
    print(n, os.WIFSIGNALED(killed) and os.WTERMSIG(killed), use(home), flush=True)
"""


def test_a_kill_at_any_statement_of_a_homes_first_use_costs_nothing(tmp_path: Path):
    env = {**os.environ, "DXFLOW_HOME": str(tmp_path)}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), ",".join(map(str, KILLED_AT))]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=True)
    assert found.stdout.split("\n")[:-1] == [f"{n} 9 0" for n in KILLED_AT]


def test_a_file_that_an_older_kill_left_half_made_is_set_aside_and_one_with_an_experiment_is_not(tmp_path: Path):
    path = tmp_path / "mlflow.db"
    made: list[str] = []

    def make(address: str) -> None:
        made.append(address)
        with sqlite3.connect(address.removeprefix(registry_file.PREFIX)) as connection:
            connection.execute("CREATE TABLE experiments (name TEXT)")
            connection.execute("INSERT INTO experiments VALUES ('Default')")
        connection.close()

    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
    connection.close()
    half = path.read_bytes()
    for n in (1, 1, 1):
        with registry_file.whole(f"sqlite:///{path}", make):
            assert not registry_file.half_made(path)
        assert len(made) == n
    assert (tmp_path / "mlflow.db.half-made-1").read_bytes() == half
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.half-made-1", "mlflow.db.lock"]


def test_a_first_use_that_fails_leaves_no_file(tmp_path: Path):
    path = tmp_path / "mlflow.db"

    def fails(address: str) -> None:
        Path(address.removeprefix(registry_file.PREFIX)).write_bytes(b"a beginning")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"), registry_file.whole(f"sqlite:///{path}", fails):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlflow.db.lock"]


def full(path: Path) -> sqlite3.Error:
    """What SQLite raises of a database that has no page left."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as error:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    return error.value


def test_a_full_disk_is_told_through_every_library_that_wraps_it(tmp_path: Path):
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    own = full(tmp_path / "a.db")
    wrapped = OperationalError("INSERT", None, own)
    try:
        try:
            raise wrapped
        except OperationalError as error:
            raise MlflowException("a page of text") from error
    except MlflowException as error:
        deep = error
    for error in (own, wrapped, deep, OSError(errno.ENOSPC, "x", "/data/a-name.dcm")):
        told = of_disk(error, where="step train")
        assert isinstance(told, ServiceError)
        assert str(told).startswith("step train: no space left on device")
        assert "a-name" not in str(told)
    assert of_disk(ValueError("x")) is None
    assert of_disk(OSError(errno.ENOENT, "x")) is None
    with sqlite3.connect(":memory:") as connection, pytest.raises(sqlite3.OperationalError) as missing:
        connection.execute("SELECT * FROM nothing")
    assert of_disk(missing.value) is None  # a wrong statement is a defect, and stays one


def test_a_step_on_a_full_database_exits_2_with_one_line(tmp_path: Path):
    code = (
        "import sqlite3; from components.core.step import step\n"
        "with step('train'):\n"
        f"    c = sqlite3.connect({str(tmp_path / 'a.db')!r}); c.execute('PRAGMA max_page_count = 1'); c.execute('CREATE TABLE t (x)')\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 2
    assert "step train: no space left on device" in found.stdout
    assert "Traceback" not in found.stdout + found.stderr
