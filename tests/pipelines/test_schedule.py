"""The monitor's own pipeline: the same IR on a laptop and on a cluster, where its log and state are volumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.core.inference_log import InferenceLog
from pipelines import catalog
from pipelines.schedule import VOLUMES, compile_monitor
from tests.monitor.test_watch import MOVED, NAMES, SAME, answers, table
from tests.serving.small_package import build, lung_nodule


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_monitor(catalog.load("lung-nodule"), tmp_path_factory.mktemp("ir") / "pipeline.yaml", tag="test")


def test_log_and_state_are_volumes_on_a_cluster_and_nothing_comes_from_the_cache(ir: Path) -> None:
    pipeline, platform = yaml.safe_load_all(ir.read_text())
    assert platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-monitor"]["pvcMount"] == [
        {"constant": claim, "mountPath": path, "pvcNameParameter": {"runtimeValue": {"constant": claim}}} for claim, path in VOLUMES.values()
    ]
    defaults = pipeline["root"]["inputDefinitions"]["parameters"]
    assert {name: defaults[name]["defaultValue"] for name in VOLUMES} == {name: path for name, (_, path) in VOLUMES.items()}
    assert not pipeline["root"]["dag"]["tasks"]["monitor"]["cachingOptions"].get("enableCache")


def test_the_local_runner_runs_it_and_the_alarms_come_out(ir: Path, tmp_path: Path) -> None:
    package = build(tmp_path / "package", lung_nodule(), table(NAMES, 0, 120), synthetic=True)
    with InferenceLog(tmp_path / "log") as log:
        for day in range(4):
            log.append([*answers(package, SAME, day), *answers(package, MOVED, day, noise_sd=4.0 if day >= 2 else 0.0)])
    run = tmp_path / "run"
    run.mkdir()
    (run / "pipeline.yaml").write_bytes(ir.read_bytes())
    arguments = {"package": str(package.folder), "log": str(tmp_path / "log"), "state": str(tmp_path / "state")}
    request = {
        "runner": "subprocess",
        "pipeline_root": str(tmp_path / "root"),
        "cache": True,
        "cache_root": str(tmp_path / "cache"),
        "arguments": arguments,
    }
    (run / "request.json").write_text(json.dumps(request))
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.execute", str(run)],
        capture_output=True,
        text=True,
        env=os.environ | {"DXFLOW_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stdout[-2000:]
    findings = Path(json.loads((run / "outputs.json").read_text())["Output"])
    (alarm,) = [a for a in json.loads((findings / "alarms.json").read_text())["alarms"] if a["kind"] == "drift"]
    assert alarm["device_key"] == MOVED
    assert (findings / alarm["report"]).exists()
