"""dxflow erase: one patient is gone from every byte, everybody else is as before, and a kill at any point is made good by the next call."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from components.core import registry
from components.core.errors import ServiceError, SpecError
from components.core.inference_log import read_log, summary
from components.core.package import ModelPackage
from components.monitor.watch import watch
from pipelines.__main__ import cli
from pipelines.erase import erase
from pipelines.models import fetch
from tests.erase.home import AT, IDS, NUMBER, OTHER, Home, build, found_in
from tests.small_run import DEVICES


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("erase") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(root))
        for name in ("DXFLOW_STORE", "MLFLOW_TRACKING_URI", "DXFLOW_KEY", "DXFLOW_KEY_FILE"):
            patch.delenv(name, raising=False)
        yield build(root)


@pytest.fixture
def home(made: Home):
    """The same home again for every test: the registry names absolute paths, so it is put back in its place, its open database by SQLite's means."""
    pristine = made.root.parent / "pristine"
    if not pristine.exists():
        shutil.copytree(made.root, pristine)
    for path in made.root.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "mlflow.db":
            path.unlink()
    shutil.copytree(pristine, made.root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlflow.db"))
    with closing(sqlite3.connect(pristine / "mlflow.db")) as source, closing(sqlite3.connect(made.root / "mlflow.db")) as target:
        source.backup(target)
    return made


def run(home: Home, dry: bool = False, **who: Any) -> dict[str, Any]:
    given = who or {"patient": IDS[NUMBER], "key": None}
    return erase(**given, logs=[home.root / "inference-log"], state=home.root / "monitor", dry=dry)


def others(home: Home) -> list[pd.DataFrame]:
    """The log, the run's predictions and the champion's reference, without the patient."""
    log = read_log(home.root / "inference-log")
    predictions = pq.read_table(next(home.root.glob("runs/*/predictions.parquet"))).to_pandas()
    reference = ModelPackage.open(fetch("lung-nodule@champion", allow_synthetic=False)).reference
    log = log[~log["request_id"].isin([f"request{NUMBER}-0", f"again{NUMBER}-0"])]
    tables = [log, predictions[predictions["group_id"] != home.key], reference[reference["group_id"] != home.key]]
    return [table.reset_index(drop=True) for table in tables]


def test_a_segment_that_nobody_can_read_stops_no_erasure_and_is_named(home: Home):
    segment = next((home.root / "inference-log").glob("*.parquet"))
    segment.write_bytes(segment.read_bytes()[:-40])
    found = run(home)
    assert found["records"] > 0
    assert found["left"] == [f"{segment} (cannot be read: nobody knows whom it holds)"]


def test_no_byte_of_the_patient_stays_and_nobody_else_loses_any(home: Home):
    before = others(home)
    for name, needle in home.needles.items():
        assert bool(found_in(home.root, needle)) == (name != "id"), name  # the search finds what is there; the id itself never was
    found = run(home)
    for name, needle in home.needles.items():
        assert [path for path in found_in(home.root, needle) if not (name == "request" and path.startswith("audit/"))] == [], name
    for old, new in zip(before, others(home), strict=True):
        pd.testing.assert_frame_equal(new, old, check_dtype=False)
    assert sum(sum(rows.values()) for rows in found["log"].values()) == 4  # the server's two, the collector's request and response
    assert found["labels"] == {"lung-nodule": 1}
    assert found["left"] == []
    assert found["cases"] == 1
    assert summary(home.root / "inference-log")["damaged"] == 0
    other = home.root / "monitor/lung-nodule/labels"
    assert f"request{OTHER}-0" in next(other.glob("*.jsonl")).read_text()


def test_the_package_survives_under_a_new_digest_and_says_which_one_it_replaces(home: Home):
    old = registry.find("lung-nodule")
    rows = len(ModelPackage.open(fetch("lung-nodule@champion", allow_synthetic=False)).reference)
    found = run(home)
    new = registry.find("lung-nodule")
    package = ModelPackage.open(fetch("lung-nodule@champion", allow_synthetic=False), digest=new.digest)  # verifies every hash
    assert (new.version, new.aliases) == (old.version, ("champion",))
    assert new.digest != old.digest
    assert new.digest in new.uri
    assert package.registration["uri"] == new.uri
    assert package.registration["digest"] == new.digest
    assert package.digests == {old.digest, new.digest}
    assert len(package.reference) == rows - 2
    (changed,) = found["registry"]["packages"]
    assert changed["rows"]["reference.parquet"] == 2
    local = ModelPackage.open(home.root / "pipeline_root/lung-nodule-1/register/package")
    assert (local.digest, local.registration) == (new.digest, package.registration)
    assert list((home.root / "store").rglob(f"*{old.digest}*")) == []
    assert old.digest not in (local.folder / "inference-service.yaml").read_text()


def test_simulated_rows_made_of_the_patients_samples_go_too(home: Home):
    """They bear no id: they are known by their unchanged figures."""
    before = ModelPackage.open(fetch("lung-nodule@champion", allow_synthetic=False))
    own = before.reference[before.reference["group_id"] == home.key]
    drawn = before.simulated
    assert drawn is not None
    mine = drawn[(drawn["cause"] == "") & drawn["sd"].isin(own["sd"])]
    assert len(mine)
    run(home)
    after = ModelPackage.open(fetch("lung-nodule@champion", allow_synthetic=False)).simulated
    assert after is not None
    assert not after["sd"].isin(mine["sd"]).any()
    changes = len(drawn.groupby(["cause", "strength"]))
    assert len(drawn) - len(after) == changes * len(mine)


def test_a_model_fitted_on_the_patient_is_flagged_for_good(home: Home):
    found = run(home)
    assert found["fitted"] == ["lung-nodule:1"]
    tags = registry.client().get_model_version("lung-nodule", "1").tags
    assert [v for k, v in tags.items() if k.startswith("erasure.")] == ["was fitted on a patient who was erased since; its weights still are"]
    again = run(home, patient=IDS[OTHER], key=None)  # the dataset is gone, and it is still known who was in it
    assert (again["fitted"], again["unknown"]) == (["lung-nodule:1"], [])
    assert run(home, patient="somebody else", key=None)["fitted"] == []


def test_a_dry_run_tells_the_same_and_changes_nothing(home: Home):
    before = {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file()}
    told = run(home, dry=True)
    assert {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file()} == before | {home.root / "erase.lock": b""}
    done = run(home)
    places = ("records", "log", "labels", "monitor", "datasets", "tables", "packages", "deleted", "fitted", "cases", "pacs", "left", "scratch")
    assert {name: told[name] for name in places} == {name: done[name] for name in places}


def test_the_second_time_there_is_nothing(home: Home):
    run(home)
    before = {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file() and ".db" not in p.name}
    assert run(home)["records"] == 0
    assert {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file() and ".db" not in p.name} == before


def test_the_audit_line_has_time_and_counts_only(home: Home):
    run(home)
    (line,) = (json.loads(text) for text in (home.root / "erasures.jsonl").read_text().splitlines())
    places = {"log", "labels", "monitor", "pacs", "cases", "datasets", "tables", "packages", "files", "registry"}
    assert set(line) == {"at", "erasure", "fitted_models"} | places
    assert (line["log"], line["labels"], line["fitted_models"]) == (4, 1, 1)


def test_a_keyed_hash_does_as_well_and_needs_no_key(home: Home):
    (home.root / "pseudonym.key").unlink()
    run(home, patient=None, key=home.key)
    assert not (home.root / "pseudonym.key").exists()
    assert found_in(home.root, home.needles["patient key"]) == []
    with pytest.raises(ServiceError, match="no pseudonym key"):
        run(home)


def test_the_key_of_a_scanner_erases_nothing(home: Home):
    """It looks like a patient's, and stands in every table."""
    before = {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file() and ".db" not in p.name}
    assert run(home, patient=None, key=next(iter(DEVICES)))["records"] == 0
    after = {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file() and ".db" not in p.name}
    assert after == before | {home.root / "erase.lock": b""}


def test_the_monitor_goes_on_after_an_erasure(home: Home):
    """The log keeps its positions, and answers of the old digest are the new package's own."""
    run(home)
    package = fetch("lung-nodule@champion", allow_synthetic=False)
    told = watch(package=package, log=home.root / "inference-log", state=home.root / "monitor", now=AT + timedelta(hours=2))
    assert (told["events"], told["other_version"], told["duplicates"]) == (26 + 19, 0, 19)  # the server's, and the collector's of the same answers


@pytest.mark.parametrize("arguments", [[], ["A", "--key", "0" * 16], ["--key", "short"], [" "], ["--patient-file", "-"]])
def test_bad_input_is_one_line(home: Home, arguments: list[str]):
    with pytest.raises((SpecError, SystemExit)):
        CliRunner().invoke(cli, ["erase", *arguments], catch_exceptions=False, standalone_mode=False, input="two\nlines\n")


def test_the_id_comes_from_stdin_and_is_not_repeated(home: Home):
    told = CliRunner().invoke(cli, ["erase", "--patient-file", "-", "--json", "--dry-run"], input=f"{IDS[NUMBER]}\n", standalone_mode=False)
    assert json.loads(told.output)["records"] > 0
    assert IDS[NUMBER] not in told.output
    assert home.key not in told.output
    nobody = CliRunner().invoke(cli, ["erase", "Nobody"], standalone_mode=False)
    assert nobody.exit_code == 0
    assert nobody.output.startswith("0 records")


def test_nothing_is_erased_under_a_run(home: Home):
    record = next(home.root.glob("runs/*/run.json"))
    record.write_text(json.dumps({"run": "r", "state": "running", "pid": 1, "tmp": "/nowhere"}))
    with pytest.raises(ServiceError, match="under way"):
        run(home)


def test_a_predictor_at_work_is_not_disturbed(home: Home):
    """What it fetched is gone from the disk, and it holds all it needs."""
    import numpy as np

    from serving.predictor import Predictor, Query

    old = ModelPackage.open(fetch("lung-nodule@champion", allow_synthetic=False))
    predictor = Predictor(old, None)
    query = Query(
        array=np.random.default_rng(0).normal(-500, 100, tuple(old.spec.input.shape)).astype(np.float32), device_key="unknown", source="array"
    )
    before = predictor.answer([query])
    run(home)
    assert not old.folder.exists()
    assert predictor.answer([query]) == before


KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
root, pristine, patient, key = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
import sqlite3
import components.core.inference_log.erasure as logs
import components.core.registry as registry
import components.monitor.late_labels as late
import pipelines.erase as erase
import pipelines.erase_files as files
import pipelines.erase_plan as plan
import pipelines.erase_record as record
import mlflow, pandas, pyarrow.parquet
shutil.copyfile(pristine / "mlflow.db", pristine.parent / "warm.db")
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{pristine.parent}/warm.db"
registry.versions("lung-nodule")  # what a first client prepares, once for all children
del os.environ["MLFLOW_TRACKING_URI"]
from components.core.storage import Store
from components.core.storage_folder import FolderStore

POINTS = [  # before or after which call of what
    (erase, "erase_labels", "before", 1),
    (registry, "tag", "before", 1),
    (FolderStore, "_delete", "before", 3),
    (files, "keep_who", "after", 1),
    (files, "drop_rows", "after", 2),
    (erase, "_audit", "after", 1),
    (record, "_added", "after", 1),
    (record, "Audit", "before", 1),
]
def work():
    return erase.erase(patient, None, logs=[root / "inference-log"], state=root / "monitor", dry=False)

def kill_at(holder, name, when, n):
    whole, calls = getattr(holder, name), [0]
    def dies(*a, **k):
        if k.get("dry"):
            return whole(*a, **k)
        calls[0] += 1
        if when == "before" and calls[0] == n:
            os.kill(os.getpid(), signal.SIGKILL)
        found = whole(*a, **k)
        if calls[0] == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    setattr(holder, name, dies)

def child(action):
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
    return os.waitpid(pid, 0)[1]

TWICE = [(POINTS[1], POINTS[4]), (POINTS[6], POINTS[7])]  # the call that finishes it is killed too
for points in [*((point,) for point in POINTS), *TWICE]:
    shutil.rmtree(root)
    shutil.copytree(pristine, root)
    for holder, name, when, n in points:
        def killed():
            kill_at(holder, name, when, n)
            work()
        status = child(killed)
        point = f"{getattr(holder, '__name__', holder)}.{name} {when} {n}"
        assert os.WIFSIGNALED(status), f"not reached: {point} {status}"
    def again():
        work()
        from tests.erase.home import found_in
        left = {n: found_in(root, n.encode()) for n in (key, patient)}
        assert not any(left.values()), left
        from components.core.package import ModelPackage
        from pipelines.models import fetch
        found = registry.find("lung-nodule")
        ModelPackage.open(fetch("lung-nodule@champion", allow_synthetic=False), digest=found.digest)
        lines = (root / "erasures.jsonl").read_text().splitlines() if (root / "erasures.jsonl").exists() else []
        assert len(lines) == 1, lines
        from serving.access.verify import verify
        found = verify(root / "audit", root / "audit-heads")
        assert (found.findings, found.torn, found.lost) == ((), (), 0), found
        assert sum(p.read_text().count('"erasure"') for p in (root / "audit").glob("*.log")) == 2  # the action, and the name of its token
        assert len([p for p in (root / "store").rglob("reference.parquet") if ".dxflow-sha256" not in str(p)]) == 1
        assert not (root / "erasing").exists()
    assert child(again) == 0, point
    print(point, flush=True)
"""


def test_kill_9_anywhere_is_made_good_by_the_next_call(home: Home):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(home.root), str(home.root.parent / "pristine"), IDS[NUMBER], home.key],
        capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
