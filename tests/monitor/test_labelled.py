"""Labels that arrive after a window was judged: its true AUC appears under its own time, and changes with corrections."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core import metrics
from components.core.erasure import Ids
from components.core.errors import DataError
from components.core.inference_log import InferenceLog
from components.core.labels import class_of
from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec
from components.monitor.erasure import erase_labels
from components.monitor.labelled import FORM, _rows, take
from components.monitor.late_labels import Label
from components.monitor.true_performance import SnapshotStore
from tests.monitor.test_watch import DAY, NAMES, SAME, answers, history, package, run, table
from tests.serving.small_package import CATALOGUE, build, lung_nodule

__all__ = ["package"]


def delivery(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    path.write_text("sample,label,at\n" + "".join(",".join(row) + "\n" for row in rows))
    return path


def test_the_true_auc_appears_under_the_windows_own_time_and_is_revised(package: ModelPackage, tmp_path: Path) -> None:
    rows = list(answers(package, SAME, 0))
    with InferenceLog(tmp_path / "log") as log:
        log.append(rows)
    run(package, tmp_path, 1.5)
    assert history(tmp_path).query("device_key == @SAME")["auc_true"].isna().all()
    p = np.array([r["scores"]["malignant"] for r in rows])
    truth = (np.random.default_rng(0).random(len(p)) < p).astype(int)
    names, at = ("benign", "malignant"), (DAY + timedelta(days=3)).isoformat()
    file = delivery(tmp_path / "labels.csv", [(r["request_id"], names[t], at) for r, t in zip(rows[:50], truth[:50], strict=True)])
    taken = take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=file, now=DAY + timedelta(days=4))
    assert str(taken) == "50 new, 0 corrected, 0 same"
    summary = run(package, tmp_path, 4.5)
    (row,) = history(tmp_path).query("device_key == @SAME and n > 0").to_dict("records")
    assert row["auc_true"] == pytest.approx(metrics.auc(truth[:50], p[:50]))
    assert row["auc_true_low"] < row["auc_true"] < row["auc_true_high"]
    assert (row["labelled"], row["answered"]) == (50, 60)
    assert summary["coverage"] == pytest.approx(50 / 60)

    wrong = delivery(tmp_path / "corrected.csv", [(rows[0]["request_id"], names[1 - truth[0]], (DAY + timedelta(days=5)).isoformat())])
    take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=wrong, now=DAY + timedelta(days=6))
    run(package, tmp_path, 6.5)
    kept = SnapshotStore(tmp_path / "state" / "lung-nodule" / "true").all()
    assert [(s.start, s.revision, s.corrected) for s in kept if s.device == SAME] == [(DAY.isoformat(), 0, 0), (DAY.isoformat(), 1, 1)]
    assert kept[1].value != kept[0].value


def test_labels_that_do_not_fit_are_refused_with_their_reason(package: ModelPackage, tmp_path: Path) -> None:
    rows = list(answers(package, SAME, 0, 12))
    with InferenceLog(tmp_path / "log") as log:
        log.append(rows)
    at = (DAY + timedelta(days=1)).isoformat()
    file = delivery(
        tmp_path / "l.csv",
        [
            ("nobody", "benign", at),
            (rows[0]["request_id"], "cat", at),
            (rows[1]["request_id"], "benign", "2020-01-01T00:00:00+00:00"),
            (rows[2]["request_id"], "benign", at),
        ],
    )
    taken = take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=file, now=DAY + timedelta(days=2))
    assert taken.counts == {"new": 1, "refused": 3}
    assert taken.reasons == {"unknown": 1, "class": 1, "early": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "labels without columns"), ("sample,label,at\nx,benign,soon\n", "times that are not ISO 8601; got 1 of 1 rows")],
)
def test_a_file_that_is_no_delivery_is_one_line(package: ModelPackage, tmp_path: Path, text: str, message: str) -> None:
    InferenceLog(tmp_path / "log").close()
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=tmp_path / "l.csv", now=DAY)
    with pytest.raises(DataError, match="labels cannot be read"):
        take(package=package.folder, log=tmp_path / "log", state=tmp_path / "state", file=tmp_path / "absent.csv", now=DAY)


# ---- what labels say of the patients ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def brighter(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """The ill are brighter, on every device."""
    made = table(NAMES, 0, 120)
    for name in ("mean", "p01", "p50", "p99"):
        made[name] += 60.0 * made["label"]
    return build(tmp_path_factory.mktemp("brighter") / "p", lung_nodule(), made, synthetic=True)


def ill_days(package: ModelPackage, root: Path, **moved: float) -> list[dict[str, Any]]:
    """Three days of one device on which nine of ten are ill."""
    rows = []
    for day in range(3):
        for n, record in enumerate(answers(package, SAME, day, 100, kernel=None, software="VA1", **moved)):
            ill = record["scores"]["malignant"] > 0.5
            if ill or n % 9 == 0:
                image = {name: v + (60.0 * ill if name in ("mean", "p01", "p50", "p99") else 0) for name, v in record["image"].items()}
                rows.append(record | {"image": image})
    with InferenceLog(root / "log") as log:
        log.append(rows)
    return rows


def labels_of(package: ModelPackage, root: Path, rows: list[dict[str, Any]]) -> None:
    at = (DAY + timedelta(days=4)).isoformat()
    told = [(r["request_id"], "malignant" if r["scores"]["malignant"] > 0.5 else "benign", at) for r in rows]
    file = delivery(root / "labels.csv", told)
    take(package=package.folder, log=root / "log", state=root / "state", file=file, now=DAY + timedelta(days=5))


def test_labels_explain_an_alarm_of_other_patients_and_leave_the_verdict(brighter: ModelPackage, tmp_path: Path) -> None:
    rows = ill_days(brighter, tmp_path)
    before = run(brighter, tmp_path, 3.5)["open_alarms"]
    verdicts = history(tmp_path).query("device_key == @SAME")["verdict"].tolist()
    assert verdicts[-1] == "drift"
    labels_of(brighter, tmp_path, rows)
    (after,) = [a for a in run(brighter, tmp_path, 5.5)["open_alarms"] if a["kind"] == "drift"]
    told = history(tmp_path).query("device_key == @SAME and n > 0")
    assert told["verdict"].tolist() == verdicts
    assert "the case mix changed: malignant in " in told["words"].iloc[-1]
    assert "does not differ within a diagnosis" in told["words"].iloc[-1]
    assert after["evidence"].startswith(next(a["evidence"] for a in before if a["kind"] == "drift") + "; 04 Mar: by ")
    assert run(brighter, tmp_path, 5.5)["open_alarms"] == run(brighter, tmp_path, 5.5)["open_alarms"]


def test_labels_do_not_explain_a_device_that_changed_under_other_patients(brighter: ModelPackage, tmp_path: Path) -> None:
    rows = ill_days(brighter, tmp_path, noise_sd=6.0)
    run(brighter, tmp_path, 3.5)
    labels_of(brighter, tmp_path, rows)
    run(brighter, tmp_path, 5.5)
    said = history(tmp_path).query("device_key == @SAME and n > 0")["words"].iloc[-1]
    assert "the case mix changed: malignant in " in said
    assert "noise still differs within a diagnosis: that does not explain it" in said


def test_verdicts_of_the_reading_page_are_taken_by_the_next_run_and_once(package: ModelPackage, tmp_path: Path) -> None:
    """One file a verdict in the disease's inbox; what is no delivery is set aside; an erased patient's verdict goes before it is taken."""
    rows = list(answers(package, SAME, 0))
    with InferenceLog(tmp_path / "log") as log:
        log.append(rows)
    run(package, tmp_path, 1.5)
    inbox = tmp_path / "state" / "lung-nodule" / "inbox"
    inbox.mkdir()
    at = (DAY + timedelta(days=1)).isoformat()
    for n, row in enumerate(rows[:40]):
        delivery(inbox / f"{n}.csv", [(row["request_id"], ("benign", "malignant")[n % 2], at)])
    (inbox / "broken.csv").write_text("who,what\n1,2\n")
    ids = Ids(requests=frozenset({rows[0]["request_id"]}))
    assert erase_labels(tmp_path / "state", ids, dry=True) == {"lung-nodule": 1}
    assert erase_labels(tmp_path / "state", ids, dry=False) == {"lung-nodule": 1}
    assert not (inbox / "0.csv").exists()
    assert run(package, tmp_path, 4.5)["verdicts"] == 39
    (row,) = history(tmp_path).query("device_key == @SAME and n > 0").to_dict("records")
    assert row["labelled"] == 39
    assert [p.name for p in inbox.iterdir()] == ["broken.csv.refused"]
    assert run(package, tmp_path, 4.6)["verdicts"] == 0
    assert history(tmp_path).query("device_key == @SAME and n > 0")["labelled"].tolist() == [39]


# ---- deliveries as offices write them -----------------------------------------------------------------------------------------------------

GRADING = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml").target


def read(path: Path, content: str | bytes) -> list[Label]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return _rows(path, GRADING)


@pytest.mark.parametrize(
    ("word", "name"),
    [("retinopathy", "retinopathy"), ("Retinopathy ", "retinopathy"), ("SEVERE", "retinopathy"), ("none", "healthy"), ("3", "retinopathy"),
     ("0", "healthy"), ("0.0", "healthy"), ("cat", "cat"), ("7", "7")],
)  # fmt: skip
def test_classes_are_called_as_ingest_reads_them(tmp_path: Path, word: str, name: str) -> None:
    """By name, alias and number, in any case; another word stays, and is refused with its row."""
    assert [label.label for label in read(tmp_path / "l.csv", f"sample,label,at\na,{word},2026-03-02T10:00:00Z\n")] == [name]


ROWS = [["sample", "label", "at"], ["a", "mild", "2026-03-02T10:00:00Z"], ["b", "none", "2026-03-02 11:00:00+01:00"]]


@pytest.mark.parametrize(
    "text",
    [
        "\r\n".join(map(",".join, ROWS)) + "\r\n", "\r".join(map(",".join, ROWS)), "\ufeff" + "\n\n".join(map(";".join, ROWS)),
        "\n".join("\t".join(reversed(row)) for row in ROWS), "\n".join(map(",".join, ROWS)).replace("sample,label,at", " Sample , LABEL ,At"),
    ],
    ids=["windows", "old mac", "a mark, semicolons, blank lines", "tabs", "names of columns"],
)  # fmt: skip
def test_offices_write_tables_in_many_ways(tmp_path: Path, text: str) -> None:
    assert read(tmp_path / "l.csv", text) == [Label("a", "retinopathy", DAY.replace(hour=10)), Label("b", "healthy", DAY.replace(hour=10))]


@pytest.mark.parametrize("date", ["02.03.2026", "3/2/2026 10:00", "1772445600", "20260302", "2026-W10-1", "0001-01-01T00:00:00+23:59", "soon", ""])
def test_dates_that_are_not_iso_are_one_line_with_their_number(tmp_path: Path, date: str) -> None:
    rows = "".join(f"s{n},mild,{date}\n" for n in range(60)) + "good,mild,2026-03-02T10:00:00Z\n"
    with pytest.raises(DataError, match=r"l\.csv:2: times that are not ISO 8601; got 60 of 61 rows; allowed: as 2026-03-02T14:05:00\+01:00"):
        read(tmp_path / "l.csv", "sample,label,at\n" + rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample,label,label,at\na,mild,none,2026-03-02T10:00:00Z\n", "columns with one name"),
        ("sample,label,at\na,mild,2026-03-02T10:00:00Z\nb,mild\n", "rows that do not fit the header; got 1 of 2 rows"),
        ("sample,label,at\na,mild,none,2026-03-02T10:00:00Z\n", "rows that do not fit the header; got 1 of 1 rows"),
        ("sample,label,at\n".encode("utf-16"), "not a table of labels"),
        ("", "labels without columns"),
        ('sample,label,at\n"a"b,mild,2026-03-02T10:00:00Z\n', "not a table of labels"),
    ],
)
def test_what_could_be_read_in_two_ways_is_read_in_none(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "l.csv", text)


@settings(max_examples=80, deadline=None, database=None, derandomize=True)
@given(
    rows=st.lists(
        st.tuples(
            st.text("abcdef0123456789-", min_size=1, max_size=12),
            st.one_of(st.sampled_from([*GRADING.classes, *GRADING.aliases]), st.text(max_size=12)),
            st.one_of(st.datetimes(datetime(1971, 1, 2), datetime(2199, 1, 1), timezones=st.just(UTC)).map(str), st.text(max_size=24)),
        ),
        max_size=8,
    ),
    delimiter=st.sampled_from(",;\t"), ending=st.sampled_from(("\n", "\r\n", "\r")), mark=st.booleans(), last=st.booleans(),
)  # fmt: skip
def test_a_delivery_is_read_whole_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], delimiter: str, ending: str, mark: bool, last: bool
) -> None:
    """No row is dropped, and no line repeats a word out of the table."""
    out = StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=ending).writerows([("sample", "label", "at"), *rows])
    text = out.getvalue() if last else out.getvalue().removesuffix(ending)
    path = tmp_path_factory.getbasetemp() / "generated.csv"
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8", "surrogatepass"))
    found, said = read_or_refused(path)
    assert "\n" not in said
    assert not [text for _, word, at in rows for text in (word.strip(), at.strip()) if len(text) > 3 and text in said.replace(FORM, "")]
    if not said:
        assert [label.sample for label in found] == [sample for sample, _, _ in rows]
        for label, (_, word, _) in zip(found, rows, strict=True):
            assert label.label == (class_of(GRADING, word) or word.strip())


def read_or_refused(path: Path) -> tuple[list[Label], str]:
    try:
        return _rows(path, GRADING), ""
    except DataError as error:
        return [], str(error)


def test_a_verdict_that_is_refused_is_kept_and_counted(package: ModelPackage, tmp_path: Path) -> None:
    with InferenceLog(tmp_path / "log") as log:
        log.append(list(answers(package, SAME, 0)))
    run(package, tmp_path, 1.5)
    inbox = tmp_path / "state" / "lung-nodule" / "inbox"
    inbox.mkdir()
    delivery(inbox / "1.csv", [("nobody", "benign", (DAY + timedelta(days=1)).isoformat())])
    summary = run(package, tmp_path, 1.6)
    assert (summary["verdicts"], summary["verdicts_refused"]) == (0, 1)
    assert [p.name for p in inbox.iterdir()] == ["1.csv.refused"]
    assert run(package, tmp_path, 1.7)["verdicts_refused"] == 1  # until somebody looks
    erased = Ids(requests=frozenset({"nobody"}))
    assert erase_labels(tmp_path / "state", erased, dry=False) == {"lung-nodule": 1}
    assert not list(inbox.iterdir())
