"""No name, id, birth date or free text of a header is in any byte that a whole run writes: datasets, models, reports, databases, logs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.ingest.test_no_phi import BIRTH, BIRTH_ISO, UID_ROOT, WORD, everything, leaks, plant
from tests.pipelines.conftest import command, environment

TEXTS = (WORD, BIRTH, BIRTH_ISO, UID_ROOT)  # the shorter numbers also occur by chance among thousands of decimals

pytestmark = [pytest.mark.pipeline, pytest.mark.filterwarnings("ignore::UserWarning:pydicom")]


def test_no_secret_in_anything_that_a_run_writes(collection: Path, tmp_path: Path) -> None:
    secrets = Dataset()
    assert plant(secrets) > 1500
    source = tmp_path / "source"
    for file in sorted(p for p in collection.rglob("*") if p.is_file()):
        target = source / file.relative_to(collection)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".dcm":
            target.write_bytes(file.read_bytes())
            continue
        image = dcmread(file)
        patient = image.PatientID
        image.update(secrets)
        image.PatientID = f"{WORD}{patient}"
        image.save_as(target)
    home = tmp_path / "home"
    done = subprocess.run(
        command(collection)[:5] + ["--source", str(source), "--json"], env=environment(home), capture_output=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    written = list(everything([home]))
    assert len(written) > 30
    assert not leaks(iter(written), TEXTS)
    assert not leaks(iter([("stdout", done.stdout), ("stderr", done.stderr)]), TEXTS)
