"""The drift step from package and log to its pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import DataError
from components.core.inference_log import InferenceLog, compact
from components.core.package import ModelPackage
from components.core.pseudonym import UNKNOWN_DEVICE
from components.monitor.step import drift
from tests.serving.small_package import build, lung_nodule, reference

SAME, NOISIER, FEW, AWAY, NEW = (letter * 16 for letter in "abcde")
NAMES = {SAME: ("SIEMENS", "SOMATOM FORCE"), NOISIER: ("GE", "LIGHTSPEED"), FEW: ("PHILIPS", "BRILLIANCE"), AWAY: ("CANON", "AQUILION")}
NEWCOMER = ("FUJI", "SCENARIA <VIEW>")
FIGURES = ("mean", "sd", "p01", "p50", "p99", "noise_sd", "sharpness")


def records(package: ModelPackage, key: str, n: int, *, digest: str | None = None, **moved: float) -> Iterator[dict[str, Any]]:
    """Answers about n patients of one device, drawn like its reference but for what `moved` adds."""
    maker, model = NAMES.get(key, NEWCOMER)
    known = key in NAMES
    for i, row in enumerate(reference({key: (maker, model)}, patients=n, per_patient=1, seed=102).to_dict("records")):
        scores = {"benign": row["score_benign"], "malignant": row["score_malignant"]}
        yield {
            "time": f"2026-03-{1 + i % 9:02d}T10:00:00+00:00", "request_id": f"{key}-{i}", "model": package.name, "version": package.version,
            "digest": digest or package.digest, "source": "dicom", "device_key": key, "manufacturer": maker, "device_model": model,
            "device_status": "known" if known else "unseen", "profile": "ok" if known else "missing", "patient": f"p{key}{i}", "series": f"s{i}",
            "scores": scores if known else {}, "decision": "benign" if known else None, "abstain": not known, "reasons": [], "latency_ms": 4.0,
            "image": {name: row[name] + moved.get(name, 0.0) for name in FIGURES}, "acquisition": {},
        }  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return build(tmp_path_factory.mktemp("package") / "p", lung_nodule(), reference(NAMES), synthetic=True)


@pytest.fixture(scope="module")
def out(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drift")
    with InferenceLog(root / "log") as log:
        log.append(list(records(package, SAME, 50)))
        log.append(list(records(package, NOISIER, 45, noise_sd=4.0)))
        log.append(list(records(package, FEW, 8)))
        log.append(list(records(package, NEW, 40, mean=70.0)))
        log.append([r | {"model": "another"} for r in records(package, AWAY, 40)])
    drift(package=package.folder, log=root / "log", out=root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def found(out: Path) -> dict[str, Any]:
    return json.loads((out / "drift.json").read_text())


def test_the_unseen_scanner_is_named_first(found: dict[str, Any]) -> None:
    assert found["unseen"] == [f"FUJI SCENARIA <VIEW> ({NEW[:8]})"]
    assert found["alarms"][0]["kind"] == "unseen"
    assert found["alarms"][0]["text"].startswith(f"Unseen device FUJI SCENARIA <VIEW> ({NEW[:8]}): 40 answers; unlike the reference: ")
    assert "mean intensity higher" in found["alarms"][0]["text"]


def test_a_changed_scanner_is_named_with_what_changed_and_the_others_are_left_in_peace(found: dict[str, Any]) -> None:
    assert [a["device"] for a in found["alarms"] if a["kind"] == "drift"] == [NOISIER]
    assert "GE LIGHTSPEED" in found["alarms"][1]["text"]
    assert "noise +2" in found["alarms"][1]["text"]
    assert found["devices"][NOISIER]["changes"]["noise_sd"]["effect"] > 1
    assert found["devices"][SAME]["verdict"] == "no drift found"
    assert (found["devices"][FEW]["verdict"], found["devices"][FEW]["reason"]) == ("cannot judge", "too few events (n=8, at least 25)")


def test_a_scanner_without_requests_is_silent_whatever_other_models_saw(found: dict[str, Any]) -> None:
    assert found["silent"] == [f"CANON AQUILION ({AWAY[:8]})"]
    assert [a["device"] for a in found["alarms"] if a["kind"] == "silent"] == [AWAY]


def test_both_pages_are_offline_marked_synthetic_and_name_the_devices(out: Path) -> None:
    summary, charts = ((out / name).read_text() for name in ("drift.html", "evidently.html"))
    assert "SYNTHETIC DATA" in summary
    assert "SYNTHETIC DATA" in charts[charts.index("<body") :][:400]
    assert re.findall(r"""(?:src|href)=["'](?!#|data:|evidently\.html)[^"']*""", summary) == []
    assert not re.search(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?:""", charts)
    assert "SCENARIA &lt;VIEW&gt;" in summary
    assert "<VIEW>" not in summary
    for device in (NEW, NOISIER, SAME):
        assert device in summary
        assert f"({device[:8]})" in charts
    assert f"({FEW[:8]})" not in charts  # Evidently would call it "not detected"; too few is not that


def test_evidently_shows_the_same_p_as_the_summary(out: Path, found: dict[str, Any]) -> None:
    charts = (out / "evidently.html").read_text()
    label = found["devices"][NOISIER]["label"]
    assert found["devices"][NOISIER]["changes"]["noise_sd"]["alarm"] is True
    near = charts[charts.index(f"noise_sd | {label}") :][:600]
    assert "Data drift detected" in near
    assert "corrected over features and devices" in near


def test_devices_without_a_name_are_told_apart_from_answers_for_which_nobody_told_one(package: ModelPackage, tmp_path: Path) -> None:
    nameless = {"manufacturer": None, "device_model": None}
    with InferenceLog(tmp_path / "log") as log:
        log.append([r | nameless for r in records(package, NEW, 3)])
        log.append([r | nameless for r in records(package, UNKNOWN_DEVICE, 2)])
    found = drift(package=package.folder, log=tmp_path / "log", out=tmp_path / "out")
    assert [a["text"].partition(":")[0] for a in found["alarms"]] == [f"Unseen device without a name ({NEW[:8]})"]
    assert found["unseen"] == [f"device without a name ({NEW[:8]})"]
    assert {key: (d["label"], d["status"]) for key, d in found["devices"].items() if d["n"]} == {
        NEW: (f"device without a name ({NEW[:8]})", "unseen"), UNKNOWN_DEVICE: ("device not told", "unknown"),
    }  # fmt: skip


def test_no_evidently_page_when_nobody_can_be_judged_and_the_summary_links_none(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append(list(records(package, NEW, 3)))
    found = drift(package=package.folder, log=tmp_path / "log", out=tmp_path / "out")
    assert found["alarms"][0]["text"] == (
        f"Unseen device FUJI SCENARIA <VIEW> ({NEW[:8]}): 3 answers; cannot judge: too few events (n=3, at least 25)"
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["drift.html", "drift.json"]
    assert "evidently.html" not in (tmp_path / "out" / "drift.html").read_text()


def test_an_empty_log_judges_nobody_and_raises_no_alarm(package: ModelPackage, tmp_path: Path) -> None:
    InferenceLog(tmp_path / "log").close()
    found = drift(package=package.folder, log=tmp_path / "log", out=tmp_path / "out")
    assert (found["window"]["n"], found["alarms"], len(found["silent"])) == (0, [], 4)
    assert "No answers in the log" in (tmp_path / "out" / "drift.html").read_text()


def test_answers_of_another_version_are_not_compared_and_told(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append(list(records(package, SAME, 40, digest="0" * 64)))
    found = drift(package=package.folder, log=tmp_path / "log", out=tmp_path / "out")
    assert (found["window"]["n"], found["window"]["other_version"], found["devices"][SAME]["verdict"]) == (0, 40, "cannot judge")
    assert "40 answers of another version of the model left out" in (tmp_path / "out" / "drift.html").read_text()


def test_damaged_lines_are_counted_on_the_page(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append(list(records(package, SAME, 3)))
    segment = next((tmp_path / "log").glob("*.log"))
    segment.write_bytes(segment.read_bytes()[:-20])
    found = drift(package=package.folder, log=tmp_path / "log", out=tmp_path / "out")
    assert (found["window"]["n"], found["window"]["damaged"]) == (2, 1)
    text = "1 line of the log is torn or changed and left out"
    assert found["alarms"][-1] == {"kind": "log_loss", "device": "", "text": text}
    assert text in (tmp_path / "out" / "drift.html").read_text()


@pytest.mark.parametrize("hurt", ["damaged", "missing"])
def test_a_segment_that_cannot_be_read_leaves_the_others_and_is_told(package: ModelPackage, tmp_path: Path, hurt: str) -> None:
    for n in range(3):
        with InferenceLog(tmp_path / "log") as log:
            log.append([r | {"request_id": f"{n}-{r['request_id']}"} for r in records(package, SAME, 3)])
    compact(tmp_path / "log")
    segment = tmp_path / "log" / "000002.parquet"
    if hurt == "damaged":
        segment.write_bytes(segment.read_bytes().replace(b"SIEMENS", b"SIEMENT", 1))
    else:
        segment.unlink()
    found = drift(package=package.folder, log=tmp_path / "log", out=tmp_path / "out")
    assert (found["window"]["n"], found["window"]["damaged"]) == (6, 3)
    text = f"segment 000002.parquet of the log is {hurt}: 3 records cannot be read"
    assert [a["text"] for a in found["alarms"] if a["kind"] == "log_loss"] == [text]
    assert text in (tmp_path / "out" / "drift.html").read_text()


def test_no_package_or_no_log_is_one_line_and_leaves_nothing(package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a model package"):
        drift(package=tmp_path, log=tmp_path, out=tmp_path / "out")
    with pytest.raises(DataError, match="no inference log"):
        drift(package=package.folder, log=tmp_path / "absent", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evidentlys_own_grouping_fails_for_an_unseen_device() -> None:
    """Why each (feature, device) pair is a column of its own: contract of Evidently 0.7.23."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.metrics.group_by import GroupBy

    definition = DataDefinition(numerical_columns=["x"], categorical_columns=["device"])
    reference, current = (pd.DataFrame({"x": [float(i) for i in range(40)], "device": ["old", other] * 20}) for other in ("old", "new"))
    report = Report([GroupBy(ValueDrift(column="x", method="ks"), "device")])
    with pytest.raises(ValueError, match="empty column"):
        report.run(*(Dataset.from_pandas(table, data_definition=definition) for table in (current, reference))).dict()
