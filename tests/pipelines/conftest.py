"""One small synthetic collection and one whole run of it, shared by the tests of this room."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.catalog import FOLDER

PATIENTS = 36
KEY = "0123456789abcdef-a-key-for-tests"


def environment(home: Path) -> dict[str, str]:
    """An environment whose every dxflow state lies in `home`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DXFLOW_", "MLFLOW_", "AWS_"))}
    return {**clean, "DXFLOW_HOME": str(home), "DXFLOW_KEY": KEY}


def command(collection: Path, *options: str) -> list[str]:
    """`dxflow run` of the catalogue's lung-nodule, made small: few epochs, and figures from few samples."""
    spec = collection.parent / "lung-nodule.toml"
    if not spec.exists():
        text = (FOLDER / "lung-nodule.toml").read_text(encoding="utf-8")
        for key, value in {"epochs": "4", "min_per_class": "5", "min_n": "5"}.items():
            text = re.sub(rf"^{key} = \d+$", f"{key} = {value}", text, flags=re.MULTILINE)
        spec.write_text(text, encoding="utf-8")
    return [sys.executable, "-m", "pipelines", "run", str(spec), "--source", str(collection), "--json", *options]


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from components.core.phantoms.chest_ct import generate

    folder = tmp_path_factory.mktemp("phantom") / "collection"
    generate(folder, patients=PATIENTS, seed=5)
    return folder


@pytest.fixture(scope="session")
def whole(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that nothing interrupts: its home, its JSON object and its stderr."""
    home = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(collection), env=environment(home), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return {"home": home, "result": json.loads(done.stdout.strip().splitlines()[-1]), "stderr": done.stderr}
