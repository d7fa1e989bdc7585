"""The loop against a real Orthanc: one report for each study, in the same study, whatever comes twice, late, damaged or not at all."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from components.core import wording
from components.core.errors import ServiceError
from components.core.inference_log import InferenceLog, read_log
from components.core.package import ModelPackage
from components.core.pseudonym import Pseudonymiser
from serving import bodies
from serving.bodies.body import Body
from serving.journal import Journal
from serving.pacs.dicomweb import DicomWeb
from serving.pacs.ledger import ANSWERED, ARRIVING, DECLINED, FAILED, Ledger
from serving.pacs.loop import Loop, Station
from serving.pacs.run import station
from serving.predictor import Predictor
from tests.orthanc import PASSWORD, USER, Orthanc, needs_dciodvfy, needs_orthanc, orthanc
from tests.pacs import small_head
from tests.pacs.studies import KEY, KnownNodule, chest, head, photograph
from tests.serving.small_dicom import MARKS, PATIENT_ID, PERSON
from tests.serving.small_package import CATALOGUE, DiseaseSpec, build, lung_nodule, reference

pytestmark = needs_orthanc
DEVICES = {"a" * 16: ("A", "B")}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_PACS_USER", USER)
        patch.setenv("DXFLOW_PACS_PASSWORD", PASSWORD)
        with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
            yield server


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    folder = tmp_path_factory.mktemp("packages")
    eye = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml")
    specs = {
        "answers": lung_nodule(normalise={"method": "device", "missing_profile": "pooled"}),
        "abstains": lung_nodule(normalise={"method": "device", "missing_profile": "abstain"}),
        "eye": eye,
    }
    for name, spec in specs.items():
        build(folder / name, spec, reference(DEVICES), synthetic=name != "abstains")
    specs["head"] = spec = small_head.spec()
    small_head.package(folder / "head", spec, reference(DEVICES))
    return {name: Predictor(ModelPackage.open(folder / name, allow_synthetic=True), None) for name in specs}


class Work:
    """A loop with its own ledger and log, and a clock that stands still until told."""

    def __init__(self, archive: Orthanc, folder: Path, stations: list[Station], stable_s: float) -> None:
        self.archive, self.folder, self.time, self.events = archive, folder, 1_000_000.0, list[dict[str, Any]]()
        self.web, self.ledger, self.log = DicomWeb(archive.url), Ledger(folder / "ledger.db"), InferenceLog(folder / "log")
        journal = Journal(self.log, [s.model for s in stations])
        self.loop = Loop(
            self.web, stations, self.ledger, journal, Pseudonymiser(KEY.encode()), stable_s=stable_s, tell=self.events.append, now=lambda: self.time
        )

    def states(self) -> list[str]:
        return [e.state for e in self.ledger.all()]

    def records(self) -> int:
        return len(read_log(self.folder / "log"))

    def close(self) -> None:
        self.web.close()
        self.log.close()
        self.ledger.__exit__()


Make = Callable[..., Work]


@pytest.fixture
def make(archive: Orthanc, models: dict[str, Predictor], tmp_path: Path) -> Iterator[Make]:
    archive.clear()
    made: list[Work] = []

    def work(*names: str, stable_s: float = 0.0) -> Work:
        key = Pseudonymiser(KEY.encode())
        stations = []
        for name in names or ("answers",):
            model, rules = models[name], models[name].spec.pacs
            assert rules is not None
            if name in ("answers", "abstains"):
                stations.append(Station(model, rules, KnownNodule(model, key)))
            else:
                stations.append(station(model, rules, key, own_detector=None, allow_synthetic=True))
        made.append(Work(archive, tmp_path, stations, stable_s))
        return made[-1]

    yield work
    for one in made:
        one.close()


def reports(archive: Orthanc) -> list[Any]:
    return [pydicom.dcmread(io.BytesIO(data)) for data in archive.objects("SR")]


def words(dataset: Any) -> str:
    """Everything that a report says, in one text."""
    found = []
    for item in dataset.get("ContentSequence") or []:
        found += [str(item.get(name)) for name in ("TextValue",) if item.get(name)]
        found += [code.CodeMeaning for code in item.get("ConceptCodeSequence") or []]
        found += [f"{m.NumericValue} {item.ConceptNameCodeSequence[0].CodeMeaning}" for m in item.get("MeasuredValueSequence") or []]
        found.append(words(item))
    return "\n".join(found)


def checked(data: bytes, folder: Path, *names: str) -> list[str]:
    """Errors of dciodvfy."""
    file = folder / "checked.dcm"
    file.write_bytes(data)
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def test_a_study_gets_one_report_and_outlines_in_itself(archive: Orthanc, make: Make):
    archive.send(chest())
    work = make()
    assert work.loop.once() == 0
    (found,) = reports(archive)
    (outlines,) = (pydicom.dcmread(io.BytesIO(d)) for d in archive.objects("SEG"))
    for made in (found, outlines):
        assert (made.StudyInstanceUID, made.PatientID, made.PatientName, made.AccessionNumber) == ("2.25.71", PATIENT_ID, PERSON, "ACC-0815")
    said = words(found)
    assert "Nodule" in said
    assert "Probability of cancer" in said
    assert "assists the physician and does not replace" in said
    assert "SYNTHETIC" in said
    assert work.ledger.all()[0].digest in said
    assert (found.VerificationFlag, found.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert work.states() == [ANSWERED]
    log = read_log(work.folder / "log")
    assert log[["status", "model", "source"]].to_numpy().tolist() == [["answered", "synthetic/lung-nodule", "dicom"]]
    assert log["patient"][0] == work.ledger.all()[0].patient == Pseudonymiser(KEY.encode()).id("patient", PATIENT_ID)


def test_outlines_lie_on_the_slices_that_they_were_drawn_on(archive: Orthanc, make: Make):
    archive.send(chest())
    make().loop.once()
    (outlines,) = (pydicom.dcmread(io.BytesIO(d)) for d in archive.objects("SEG"))
    heights = [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in outlines.PerFrameFunctionalGroupsSequence]
    assert sorted(heights) == [4.0, 6.0, 8.0, 10.0, 12.0]
    frames = outlines.pixel_array
    middle = frames[heights.index(8.0)]
    rows, columns = np.nonzero(middle)
    assert (rows.mean(), columns.mean()) == pytest.approx((48, 48), abs=0.5)


@needs_dciodvfy
def test_an_independent_checker_finds_no_error_in_what_is_stored(archive: Orthanc, make: Make, tmp_path: Path):
    archive.send([*chest(), photograph(side="R"), photograph(side="L", seed=1, number=2)])
    make("answers", "eye").loop.once()
    for kind, n in {"SR": 2, "SEG": 1, "OT": 2}.items():
        files = archive.objects(kind)
        assert len(files) == n
        for data in files:
            assert checked(data, tmp_path) == []


def test_nothing_happens_twice(archive: Orthanc, make: Make):
    """Another pass, the same files sent again, another process, a lost ledger."""
    archive.send(chest())
    work = make()
    work.loop.once()
    archive.send(chest())
    work.loop.once()
    make().loop.once()
    (work.folder / "ledger.db").rename(work.folder / "lost.db")
    fresh = make()
    fresh.loop.once()
    assert fresh.states() == [ANSWERED]
    assert (len(archive.objects("SR")), len(archive.objects("SEG")), work.records()) == (1, 1, 1)


def test_a_study_that_still_arrives_is_not_judged(archive: Orthanc, make: Make):
    files = chest(slices=10)
    work = make(stable_s=60)
    archive.send(files[:8])
    assert work.loop.once() == 1
    work.time += 59
    archive.send(files[8:])
    assert work.loop.once() == 1
    work.time += 59
    assert work.loop.once() == 1
    assert reports(archive) == []
    work.time += 2
    assert work.loop.once() == 0
    assert "10 images" in words(reports(archive)[0])


def test_a_study_that_grows_after_its_answer_gets_another_one_that_names_the_first(archive: Orthanc, make: Make):
    files = chest(slices=11)
    archive.send(files[:9])
    work = make()
    work.loop.once()
    archive.send(files[9:])
    work.loop.once()
    first, second = sorted(reports(archive), key=lambda r: len(words(r)) + 1000 * ("PredecessorDocumentsSequence" in r))
    named = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == first.SOPInstanceUID
    assert "11 images" in words(second)
    assert work.records() == 2


def test_growth_that_does_not_touch_the_judged_series_changes_nothing(archive: Orthanc, make: Make):
    archive.send(chest())
    work = make()
    work.loop.once()
    archive.send(chest(series="2.25.99", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    work.loop.once()
    assert (work.states(), len(reports(archive)), work.records()) == ([ANSWERED], 1, 1)


def test_an_abstention_is_reported_with_its_reason_and_nothing_says_synthetic(archive: Orthanc, make: Make):
    archive.send(chest())
    make("abstains").loop.once()
    said = words(reports(archive)[0])
    assert "No decision: device without profile" in said
    assert "Undetermined" in said
    assert "Probability of cancer" not in said
    assert "SYNTHETIC" not in said


@needs_dciodvfy
def test_a_series_without_nodules_gets_a_report_that_says_so(archive: Orthanc, make: Make, tmp_path: Path):
    archive.send(chest())
    work = make()
    (station,) = work.loop._stations
    work.loop._stations = (Station(station.model, station.rules, KnownNodule(station.model, Pseudonymiser(KEY.encode()), blind=True)),)
    work.loop.once()
    (data,) = archive.objects("SR")
    said = words(pydicom.dcmread(io.BytesIO(data)))
    assert "0 nodules found in 9 images." in said
    assert "0.0 Number of findings" in said
    assert checked(data, tmp_path) == []
    assert (archive.objects("SEG"), work.records(), work.states()) == ([], 0, [ANSWERED])


NAMES = {
    "ISO_IR 144": "Люксембург^Роза",
    "ISO_IR 100": "Müller^Jürgen",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎",
    "GB18030": "Wang^XiaoDong=王^小东",
}


@pytest.mark.parametrize(("charset", "name"), NAMES.items())
def test_a_name_comes_back_in_whatever_script_it_was_written(archive: Orthanc, make: Make, charset: str, name: str):
    archive.send(chest(SpecificCharacterSet=charset.split("\\"), PatientName=name))
    make().loop.once()
    for kind in ("SR", "SEG"):
        (made,) = (pydicom.dcmread(io.BytesIO(data)) for data in archive.objects(kind))
        assert str(made.PatientName) == name


def test_what_is_declined_stands_in_the_list_with_its_reason_and_can_be_tried_again(archive: Orthanc, make: Make):
    archive.send(chest(leave_out=[3]))
    work = make()
    work.loop.once()
    (entry,) = work.ledger.all((DECLINED,))
    assert entry.reasons == ("1 slices missing (1 series)",)
    assert reports(archive) == []
    archive.send([chest()[3]])
    work.loop.once()
    assert work.states() == [ANSWERED]
    assert work.ledger.retry() == 0


def test_retry_puts_the_dead_back_in_the_line(archive: Orthanc, make: Make):
    archive.send(chest(BurnedInAnnotation="YES"))
    work = make()
    work.loop.once()
    assert work.states() == [DECLINED]
    assert work.ledger.retry() == 1
    assert work.states() == [ARRIVING]
    work.loop.once()
    assert work.states() == [DECLINED]


def test_other_studies_leave_no_trace(archive: Orthanc, make: Make):
    archive.send([photograph()])
    work = make()
    assert work.loop.once() == 0
    assert work.ledger.all() == []


def test_an_archive_that_is_away_costs_no_attempt_and_is_gone_on_with(archive: Orthanc, make: Make):
    archive.send(chest())
    work = make()
    work.loop.once()
    archive.send(chest("2.25.73", "2.25.74"))
    archive.stop()
    try:
        with pytest.raises(ServiceError, match=r"PACS 127\.0\.0\.1: cannot be reached"):
            work.loop.once()
    finally:
        archive.start()
    work.loop.once()
    assert work.states() == [ANSWERED, ANSWERED]
    assert len(reports(archive)) == 2


def test_a_defect_is_tried_again_later_and_given_up_in_the_end(archive: Orthanc, make: Make):
    class Broken:
        def answer(self, files: Any) -> Any:
            raise ZeroDivisionError(PERSON)

    archive.send(chest())
    work = make()
    station = work.loop._stations[0]
    work.loop._stations = (Station(station.model, station.rules, Broken()),)
    for n in range(1, 7):
        work.loop.once()
        work.loop.once()  # too early: nothing is tried
        assert work.ledger.all()[0].attempts == n
        work.time += 1000
    (entry,) = work.ledger.all((FAILED,))
    assert entry.reasons == ("a defect of dxflow: ZeroDivisionError",)


def test_no_trace_of_a_person_in_ledger_log_and_events(archive: Orthanc, make: Make):
    archive.send([*chest(), *chest("2.25.73", "2.25.74", BurnedInAnnotation="YES"), photograph()])
    work = make("answers", "eye")
    work.loop.once()
    kept = b"".join(p.read_bytes() for p in work.folder.rglob("*") if p.is_file()).lower() + repr(work.events).lower().encode()
    for mark in (*MARKS, "2.25.7", "acc-0815"):
        assert mark.encode() not in kept


def test_each_eye_gets_its_answer_and_a_picture(archive: Orthanc, make: Make):
    archive.send([photograph(side="R"), photograph(side="L", seed=1, number=2)])
    work = make("eye")
    work.loop.once()
    (found,) = reports(archive)
    assert "2 images judged for diabetic retinopathy" in words(found)
    drawn = [pydicom.dcmread(io.BytesIO(d)) for d in archive.objects("OT")]
    assert sorted(d.Laterality if "Laterality" in d else d.ImageLaterality for d in drawn) == ["L", "R"]
    assert all(d.Columns == 480 and d.Rows > 360 and d.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7" for d in drawn)
    work.loop.once()
    assert (work.states(), work.records(), len(reports(archive))) == ([ANSWERED], 2, 1)


@needs_dciodvfy
def test_a_head_gets_one_report_about_its_3d_t1_series_as_a_whole(archive: Orthanc, make: Make, tmp_path: Path):
    """The server's own answer to the same series, by hand its exact figure; a post-contrast series beside it is left alone."""
    files = head(PatientAge="073Y")
    archive.send([*files, *head(series="2.25.63", slices=64, ContrastBolusAgent="gadobutrol")])
    work = make("head")
    assert work.loop.once() == 0
    (data,) = archive.objects("SR")
    found = pydicom.dcmread(io.BytesIO(data))
    assert (found.StudyInstanceUID, found.PatientID, found.PatientName) == ("2.25.61", PATIENT_ID, PERSON)
    said = words(found)
    assert "Series of 104 images judged for Alzheimer's disease" in said
    (tmp_path / "series").mkdir()
    for n, file in enumerate(files):
        (tmp_path / "series" / f"{n}.dcm").write_bytes(file)
    model, rules = work.loop._stations[0].model, work.loop._stations[0].rules
    (query,) = bodies.read("application/dicom", Body(tmp_path / "series"), model.spec, Pseudonymiser(KEY.encode()))
    mean = np.clip(query.array / model.spec.input.range[1], 0, 1).mean()
    odds = np.exp(mean * np.arange(3) + np.array([0, 0, 0.5]))  # the small network, and what sex M adds
    (answer,) = model.answer([query])
    assert list(answer["probabilities"].values()) == pytest.approx(odds / odds.sum(), abs=1e-5)
    decided = rules.decisions[answer["decision"]][2]
    told = wording.probability(answer["probabilities"]["ad"])
    assert f"Series of 104 images as a whole. Decision: {decided}. Probability of Alzheimer's disease: {told}." in said
    assert "the model was never tested on it." in said
    assert "SYNTHETIC" in said
    named = {
        r.ReferencedSOPInstanceUID
        for s in found.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for r in s.ReferencedSOPSequence
    }
    assert named == {f"2.25.62.{k}" for k in range(1, 105)}
    assert checked(data, tmp_path) == []
    assert (archive.objects("SEG"), archive.objects("OT"), work.states()) == ([], [], [ANSWERED])
    log = read_log(work.folder / "log")
    assert log[["status", "model", "source", "cov_age_years", "cov_sex"]].to_numpy().tolist() == [
        ["answered", "synthetic/alzheimer-smri", "dicom", 73.0, "M"]
    ]
    work.loop.once()
    assert (len(archive.objects("SR")), work.records()) == (1, 1)


def test_a_head_whose_series_is_in_doubt_is_declined_with_the_reason(archive: Orthanc, make: Make):
    archive.send([*head(slices=70, leave_out=[30]), *head("2.25.64", "2.25.65", slices=70, SeriesDescription="t2_space_sag")])
    work = make("head")
    work.loop.once()
    assert {e.reasons for e in work.ledger.all((DECLINED,))} == {("1 slices missing (1 series)",), ("another sequence, or none named (1 series)",)}
    assert reports(archive) == []
