"""The command: what a script reads, what a person reads, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import catalog
from pipelines.terminal import spec_text


def dxflow(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipelines", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_help_lists_every_command(tmp_path: Path) -> None:
    text = dxflow("--help", cwd=tmp_path).stdout
    commands = ("diseases", "show", "phantom", "run", "compile", "serve", "collect", "predict", "drift", "monitor", "labels", "dashboard", "runs")
    for command in (*commands, "doctor"):
        assert f"  {command} " in text


def test_diseases_as_json_has_what_scripts_read(tmp_path: Path) -> None:
    rows = json.loads(dxflow("diseases", "--json", cwd=tmp_path).stdout)
    assert {"lung-nodule", "lung-candidate"} <= {row["name"] for row in rows}
    for row in rows:
        assert {"name", "title", "modality", "families", "survey_row"} <= set(row)
    assert not list(tmp_path.iterdir()), "listing writes nothing"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "pneumonia"], "No disease 'pneumonia'. Diseases: alzheimer-slices, "),
        (["run", "lung-nodule"], "--source"),
        (["run", "lung-nodule", "--source", "nowhere"], "no such source; got nowhere"),
        (["run", "lung-nodule", "--source", ".", "--family", "forest"], "no such family; got 'forest'; allowed: cnn, dbn, sdae, svm, vote"),
        (["phantom", "lung-candidate", "--out", "x"], "no phantom"),
        (["drift", "Lung Nodule"], "no such model"),
        (["compile", "missing.toml"], "missing.toml: no such spec"),
        (["frobnicate"], "No such command"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = dxflow(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_compile_writes_the_ir_where_it_is_asked(tmp_path: Path) -> None:
    done = dxflow("compile", "lung-nodule", "--out", "p.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert "pipelineInfo" in (tmp_path / "p.yaml").read_text()


def test_compile_writes_the_loop_over_devices_where_it_is_asked(tmp_path: Path) -> None:
    assert dxflow("compile", "skin-lesion", "--unseen", "--out", "p.yaml", cwd=tmp_path).returncode == 0
    text = (tmp_path / "p.yaml").read_text()
    assert "name: skin-lesion" in text
    assert "parameterIterator" in text
    done = dxflow("compile", "skin-lesion", "--unseen", "--monitor", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "one of them" in done.stderr


def test_show_says_what_a_spec_does_for_devices_that_training_has_not_seen() -> None:
    """Also where it does nothing, and what would fit its samples."""
    lines = {name: spec_text(catalog.load(name)).splitlines() for name in ("skin-lesion", "parkinson-fog", "breast-cytology")}
    assert "# families.*.options.acquisition_jitter: small 0.3, others 0" in lines["skin-lesion"]
    assert any(line.startswith("# normalise.per_sample: grey-world; fitting: grey-world, illumination, ") for line in lines["skin-lesion"])
    assert "# normalise.per_sample: nothing; fitting: sensor-gain" in lines["parkinson-fog"]
    assert "# families.*.options.device_balanced: false" in lines["parkinson-fog"]
    assert "# normalise.per_sample: nothing; fitting: none" in lines["breast-cytology"]


def test_doctor_finds_the_pinned_parts(tmp_path: Path) -> None:
    done = dxflow("doctor", "--json", cwd=tmp_path)
    found = {row["check"]: row for row in json.loads(done.stdout)}
    assert {found[name]["state"] for name in ("kfp", "kserve", "torch", "store")} == {"ok"}


@pytest.mark.parametrize("module", ["kfp", "torch", "feast", "mlflow", "kserve", "pydicom", "great_expectations", "evidently"])
def test_listing_diseases_imports_nothing_heavy(module: str) -> None:
    """`dxflow diseases` must feel instant."""
    code = "import sys, pipelines.__main__; from pipelines import catalog as c; [c.load(n) for n in c.names()]; sys.exit(sys.argv[1] in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, module], check=False).returncode == 0
