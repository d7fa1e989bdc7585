"""Every disease of the catalogue, once in full: its phantom in the size of its spec, its default family, through the command.

What a run of this size can show is that the disease learns something and that its figures are whole; how good it is stands in the table of
the README, which `make rows` measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.core.spec import DiseaseSpec
from pipelines import catalog
from tests.pipelines.conftest import environment
from tests.real.rows import SOURCES

pytestmark = pytest.mark.pipeline
HERE = sorted(name for name in catalog.names() if catalog.load(name).phantom is not None or SOURCES.get(name, "").startswith("package:"))


def dxflow(home: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *words, "--json"], env=environment(home), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def chance(spec: DiseaseSpec, metric: str) -> float:
    return 0.0 if metric in ("qwk", "froc") else 0.5


@pytest.mark.parametrize("disease", HERE)
def test_the_disease_runs_from_its_data_to_a_registered_model(disease: str, tmp_path: Path) -> None:
    spec = catalog.load(disease)
    source = SOURCES.get(disease, "")
    if spec.phantom is not None:
        source = str(tmp_path / "data")
        made = dxflow(tmp_path / "home", "phantom", disease, "--out", source)
        assert made["synthetic"] is True
    result = dxflow(tmp_path / "home", "run", disease, "--source", source)
    assert result["synthetic"] is (spec.phantom is not None)
    assert set(result["metrics"]) >= set(spec.metrics)
    figure = result["metrics"][spec.metrics[0]]
    assert figure["value"] is not None, figure
    assert figure["value"] > chance(spec, spec.metrics[0]) + 0.05
    predictions = pd.read_parquet(result["predictions"])
    assert figure["n"] <= (predictions["split"] == "test").sum()
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert ("SYNTHETIC DATA" in page) is result["synthetic"]
    package = json.loads((Path(result["package"]) / "package.json").read_text())
    assert {"model.safetensors", "model.onnx", "calibration.json", "operating_point.json"} <= set(package["files"])
    assert package["name"] == (f"synthetic/{disease}" if result["synthetic"] else disease)
