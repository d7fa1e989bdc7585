"""The loop is killed at every point where it has just done something, and started again: one report, one segmentation, one record."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pydicom

from components.core.inference_log import read_log
from serving.pacs.ledger import ANSWERED, Ledger
from tests.orthanc import PASSWORD, USER, needs_orthanc, orthanc
from tests.pacs.killed import EVENTS
from tests.serving.small_package import build, lung_nodule, reference

pytestmark = needs_orthanc
ROOT = Path(__file__).parents[2]


def test_killed_at_every_event_it_ends_with_one_report_for_each_study(tmp_path: Path):
    build(tmp_path / "package", lung_nodule(normalise={"method": "device", "missing_profile": "pooled"}), reference({"a" * 16: ("A", "B")}))
    with orthanc(tmp_path / "orthanc") as archive:
        done = subprocess.run(
            [sys.executable, "-m", "tests.pacs.killed", str(archive.port), str(tmp_path), str(tmp_path / "package")],
            cwd=ROOT, env=os.environ | {"DXFLOW_PACS_USER": USER, "DXFLOW_PACS_PASSWORD": PASSWORD}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout.split() == [line for event in EVENTS for line in (*event.split(), "end")], done.stderr
        for kind in ("SR", "SEG"):
            studies = Counter(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).StudyInstanceUID for data in archive.objects(kind))
            assert studies == {f"2.25.7{n}": 1 for n in range(len(EVENTS))}
    log = read_log(tmp_path / "log")
    assert len(log) == len(EVENTS)
    assert log["study"].nunique() == len(EVENTS)
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert [(e.state, e.attempts) for e in ledger.all()] == [(ANSWERED, 0)] * len(EVENTS)
