"""The reading page over HTTP and in a headless browser. All data is made up."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from components.core.errors import DataError, SpecError
from serving.access.layer import Access
from serving.access.policy import Policy, new_token
from serving.client import ask
from serving.reading import words
from serving.reading.cases import CaseStore, now
from serving.reading.tables import state_of, urgency
from serving.reading.words import ASSISTS, SYNTHETIC
from tests.serving.reading.site import PATIENT, Site, patch, running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("reading")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DXFLOW_HOME", str(folder / "home"))
        found = Site(folder, Policy("127.0.0.1"))
    with running(found.app) as found.url:
        yield found


def get(site: Site, path: str) -> httpx.Response:
    return httpx.get(site.url + path, timeout=60)


def tell(site: Site, name: str, **form: str) -> httpx.Response:
    return httpx.post(f"{site.url}/read/case/{site.ids[name]}", data=form, timeout=60)


def test_the_list_is_ordered_by_urgency_and_every_view_says_what_it_is(site: Site) -> None:
    text = get(site, "/read").text
    places = [text.index(site.ids[name]) for name in ("urgent", "nothing", "routine")]
    assert places == sorted(places)
    for page in (text, get(site, f"/read/case/{site.ids['urgent']}").text, get(site, "/read?read=1").text):
        assert ASSISTS in page
    assert SYNTHETIC in text
    assert SYNTHETIC in get(site, f"/read/case/{site.ids['routine']}").text


def test_urgency_puts_positives_first_then_what_is_not_ruled_out_then_what_only_a_reader_can_tell() -> None:
    """A negative decision whose set still holds the positive class is not routine; neither is one whose set is empty."""

    def one(abstain: bool, p: float, decision: str | None, kept: list[str] | None = None) -> tuple[float, str]:
        answer: dict[str, Any] = {"abstain": abstain, "decision": decision, "probabilities": {} if abstain else {"benign": 1 - p, "malignant": p}}
        answer["uncertainty"] = None if kept is None else {"set": kept}
        return urgency(answer, ["malignant"]), state_of(answer, ["malignant"])

    both = ["benign", "malignant"]
    found = [
        one(False, 0.9, "malignant"), one(False, 0.5, "malignant", both), one(False, 0.4, "benign", both), one(False, 0.3, "benign", []),
        one(True, 0, None), one(False, 0.3, "benign"), one(False, 0.01, "benign", ["benign"]),
    ]  # fmt: skip
    order = [value for value, _ in found]
    assert order == sorted(order, reverse=True)
    assert len(set(order)) == len(order)
    assert [state for _, state in found] == ["urgent", "urgent", "not ruled out", "not ruled out", "no answer", "routine", "routine"]


def test_a_case_says_its_answer_in_words_with_uncertainty_device_and_limits(site: Site) -> None:
    text = get(site, f"/read/case/{site.ids['urgent']}").text
    for told in (
        "The model&#39;s answer: malignant.", "Probability of malignant: ", "95\u00a0% interval", "SIEMENS SOMATOM Force: the model was tested on it",
        "Tested on one split only.", "The line between the two answers lies at 40\u00a0%",
    ):  # fmt: skip
        assert told in text
    nothing = get(site, f"/read/case/{site.ids['nothing']}").text
    assert "The model gives no answer for this one." in nothing
    assert "Image without content." in nothing
    assert 'value="agree"' not in nothing


@pytest.mark.parametrize(
    ("p", "line", "told"),
    [
        (0.77, 0.466, ("77\u00a0%", "47\u00a0%")), (0.4652, 0.4671, ("46.5\u00a0%", "46.7\u00a0%")),
        (0.46551, 0.46572, ("46.55\u00a0%", "46.57\u00a0%")), (0.5, 0.5, ("50\u00a0%", "50\u00a0%")),
        (0.465726, 0.465727, ("47\u00a0%", "47\u00a0%, just above this probability")), (0.998, 0.995, ("99.8\u00a0%", "99.5\u00a0%")),
    ],
)  # fmt: skip
def test_a_probability_beside_the_line_never_reads_as_if_it_were_on_it(p: float, line: float, told: tuple[str, str], site: Site) -> None:
    answer = dict(site.store.get(site.ids["urgent"])[0].answer)
    answer |= {"probabilities": {"benign": 1 - p, "malignant": p}, "operating_point": answer["operating_point"] | {"thresholds": [line]}}
    lines = words.said(answer, site.predictors["lung-nodule"].package).lines
    assert lines[0] == f"Probability of malignant: {told[0]}."
    assert f"The line between the two answers lies at {told[1]}." in lines


def test_pixels_are_those_of_the_sample_and_the_heat_lies_on_its_grid(site: Site) -> None:
    pixels = np.frombuffer(get(site, f"/read/case/{site.ids['urgent']}/pixels").content, "<f4")
    assert np.array_equal(pixels.reshape(1, 52, 52), patch(0.8, 2))
    heat = get(site, f"/read/case/{site.ids['urgent']}/heat")
    assert (len(heat.content), heat.headers["x-method"], heat.headers["x-classes"]) == (52 * 52, "occlusion", "malignant")
    assert np.frombuffer(heat.content, np.uint8).max() == 255
    volume = get(site, f"/read/case/{site.ids['volume']}/heat")
    assert len(volume.content) == site.predictors["alzheimer-smri"].spec.input.shape[1:][0] * np.prod(
        site.predictors["alzheimer-smri"].spec.input.shape[2:]
    )


def test_a_recording_is_one_of_the_list_and_its_windows_say_which_second_they_are(site: Site) -> None:
    text = get(site, "/read").text
    assert sum(name in text for name in site.walk) == 1, "twelve rows alike would bury everybody else"
    assert f"All {len(site.walk)} windows" in text
    assert f"To read <b>{len(site.store.list())}</b>" in text
    whole = get(site, f"/read?of={site.walk[0]}").text
    places = [whole.index(f"/read/case/{name}") for name in site.walk]
    assert places == sorted(places)
    case = get(site, f"/read/case/{site.walk[2]}").text
    assert "Window 3 of a recording: 2.6 to 7.7\u00a0s." in case
    assert f"/read?of={site.walk[2]}" in case
    assert "Drag on the image" not in case


def test_samples_of_one_request_that_are_no_windows_stay_apart(site: Site) -> None:
    """A folder's samples come many in a request, and are of different patients."""
    before = len(site.store.list())
    for n in range(2):
        site.add(f"folder {n}", "lung-nodule", patch(-0.9, 20 + n))
    assert len(site.store.list()) == before + 2
    assert len(site.store.recording(site.ids["folder 0"])) == 1


def test_a_slide_is_shown_whole_with_the_heat_of_its_tiles(site: Site) -> None:
    """Its picture, not one of its tiles; the heat was kept with it, since the tiles are not."""
    case = f"/read/case/{site.ids['slide']}"
    text = get(site, case).text
    assert 'data-shape="3,1,80,112"' in text
    assert "tiles with tissue were judged together." in text
    pixels = np.frombuffer(get(site, f"{case}/pixels").content, "<f4").reshape(3, 80, 112)
    assert pixels[:, 24, 90].tolist() == [120, 50, 95]
    assert pixels[:, 0, 0].tolist() == [245, 245, 245]
    reply = get(site, f"{case}/heat")
    assert (reply.headers["x-method"], reply.headers["x-classes"]) == ("tile probabilities", "tumour")
    heat = np.frombuffer(reply.content, np.uint8).reshape(80, 112)
    assert (heat[16:32, 80:104].min() > 230, heat[32:64].max() < 25, heat[:16].max()) == (True, True, 0)


def test_nothing_comes_from_elsewhere_and_nothing_is_kept_by_the_browser(site: Site) -> None:
    for path in ("/read", f"/read/case/{site.ids['urgent']}", "/read/static/viewer.js", "/read/static/reading.css"):
        reply = get(site, path)
        assert "http://" not in reply.text
        assert "https://" not in reply.text
        assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert get(site, "/read").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/read/case/" + "0" * 32, "/read/case/..%2f..%2fcases", "/read/case/x/pixels", "/read/static/../cases.py"])
def test_what_is_not_there_is_404_in_one_line(site: Site, path: str) -> None:
    reply = get(site, path)
    assert reply.status_code == 404
    assert "Traceback" not in reply.text


def test_a_verdict_is_kept_becomes_a_late_label_and_an_audit_event_without_its_text(site: Site) -> None:
    site.add("read", "lung-nodule", patch(0.5, 9))
    answer = site.store.get(site.ids["read"])[0].answer
    reply = tell(site, "read", verdict="disagree", label="benign", comment="old scar of Mrs Miller")
    assert reply.status_code == 303
    case, _, (reading,) = site.store.get(site.ids["read"])
    assert (case.read, reading.verdict, reading.label, reading.comment, reading.who) == (
        True,
        "disagree",
        "benign",
        "old scar of Mrs Miller",
        "local",
    )
    rows = [row for file in (site.inbox / "lung-nodule").glob("*.csv") for row in csv.DictReader(file.open())]
    assert [(r["sample"], r["label"], r["version"]) for r in rows if r["sample"] == case.request_id] == [
        (case.request_id, "benign", answer["digest"])
    ]
    log = next((site.inbox.parent / "audit").glob("*.log")).read_text()
    events = [json.loads(line.split(" ", 1)[1]) for line in log.splitlines()]
    told = [e for e in events if e["action"] == "verdict" and e["request_id"] == case.request_id]
    assert [(e["who"], e["verdict"], e["label"], e["commented"]) for e in told] == [("local", "disagree", "benign", True)]
    assert "Miller" not in log
    assert site.ids["read"] in get(site, "/read?read=1").text


@pytest.mark.parametrize(
    "form",
    [{}, {"verdict": "maybe"}, {"verdict": "disagree"}, {"verdict": "disagree", "label": "Miller"}, {"verdict": "own reading", "label": "benign"}],
)
def test_a_form_that_says_nothing_changes_nothing(site: Site, form: dict[str, str]) -> None:
    reply = tell(site, "routine", **form)
    assert reply.status_code == 400
    assert "Miller" not in reply.text
    assert not site.store.get(site.ids["routine"])[0].read


def test_cases_go_with_their_patient_with_age_and_beyond_the_most(site: Site, tmp_path: Path) -> None:
    store = CaseStore(tmp_path / "reading", most=3, days=10)
    predictor = site.predictors["lung-nodule"]
    query = replace(site.store.get(site.ids["urgent"])[1], patient=PATIENT)
    (answer,) = predictor.answer([query])
    answer["request_id"] = "1" * 32
    at = now()
    made = [store.add(replace(query, array=query.array + d), answer, ["malignant"], at - timedelta(days=d)) for d in (11, 3, 2, 1, 0)]
    kept = {case.id for case in store.list()}
    assert kept == set(made[2:])
    assert [(why, n) for why, n, _ in store.removed()] == [("more than 3 cases", 1), ("older than 10 days", 1)]
    assert {p.stem for p in (tmp_path / "reading" / "pixels").iterdir()} == kept
    assert store.erase(frozenset({PATIENT}), dry=True) == 3
    assert store.erase(frozenset({PATIENT})) == 3
    assert store.counts() == (0, 0)
    assert not list((tmp_path / "reading" / "pixels").iterdir())
    store.close()
    everything = b"".join(p.read_bytes() for p in (tmp_path / "reading").rglob("*") if p.is_file())
    assert PATIENT.encode() not in everything


def test_beyond_loopback_a_reader_signs_in_with_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    token, line = new_token("dr-b", ["reader"])
    (tmp_path / "tokens").write_text(line)
    (tmp_path / "tokens").chmod(0o600)
    site = Site(tmp_path, Policy("0.0.0.0", tokens=tmp_path / "tokens"))
    with running(site.app) as url, httpx.Client(base_url=url) as client:
        assert client.get("/read").status_code == 401
        person = client.get("/read", headers={"Accept": "text/html"})  # a browser: nobody can do anything with a line of JSON
        assert (person.status_code, person.headers["location"]) == (303, "/read/login")
        assert client.get("/read/login").status_code == 200
        assert client.post("/read/login", data={"token": "wrong"}).status_code == 401
        reply = client.post("/read/login", data={"token": token})
        assert (reply.status_code, reply.headers["location"]) == (303, "/read")
        assert all(word in reply.headers["set-cookie"] for word in ("HttpOnly", "SameSite=strict", "Path=/read"))
        assert "dr-b" in client.get("/read").text


def test_our_own_client_says_who_asks_where_the_server_wants_to_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No argument, which would show in the list of processes. Behind the layer stands no model here: who passes it is told 404."""
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    token, line = new_token("ward-7", ["reader"])
    (tmp_path / "tokens").write_text(line)
    (tmp_path / "tokens").chmod(0o600)
    app = Access(Starlette(), Policy("0.0.0.0", tokens=tmp_path / "tokens"), None, set)
    with running(app) as url:
        for told, kind, says in (
            ("", DataError, "a bearer token is needed; allowed: DXFLOW_TOKEN"), ("wrong", DataError, "the token is not known; allowed: DXFLOW_TOKEN"),
            (token, SpecError, "no such model at the server"), ("two\nlines", SpecError, "DXFLOW_TOKEN: not a token"),
        ):  # fmt: skip
            monkeypatch.setenv("DXFLOW_TOKEN", told)
            with pytest.raises(kind, match=says):
                ask(url, "lung-nodule", b"", {}, 60)


def test_a_reader_works_through_the_list_by_keyboard(site: Site, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    problems: list[str] = []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.goto(f"{site.url}/read/case/{site.ids['volume']}")
    page.wait_for_selector("canvas[data-drawn=plain]")
    before = page.evaluate("document.getElementById('view').toDataURL()")
    first = page.text_content("#slice-at")
    page.keyboard.press("ArrowDown")
    assert page.text_content("#slice-at") != first
    assert page.evaluate("document.getElementById('view').toDataURL()") != before
    page.goto(f"{site.url}/read/case/{site.ids['slide']}")
    page.wait_for_selector("canvas[data-drawn=plain]")
    page.keyboard.press("h")
    page.wait_for_selector("canvas[data-drawn=heat]")
    red, green, blue, _ = page.evaluate("Array.from(document.getElementById('view').getContext('2d').getImageData(90, 24, 1, 1).data)")
    assert red - green > 70 - 5  # dark red over tissue of (120, 50, 95)
    assert blue < 95
    page.goto(f"{site.url}/read/case/{site.ids['urgent']}")
    page.wait_for_selector("canvas[data-drawn=plain]")
    plain = page.evaluate("document.getElementById('view').toDataURL()")
    page.keyboard.press("h")
    page.wait_for_selector("canvas[data-drawn=heat]")
    assert page.evaluate("document.getElementById('view').toDataURL()") != plain
    assert "what speaks for malignant (occlusion)" in page.text_content("#heat-says")
    page.keyboard.press("h")
    page.wait_for_selector("canvas[data-drawn=plain]")
    page.keyboard.press("]")
    assert page.evaluate("document.getElementById('view').toDataURL()") != plain
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: site.ids["urgent"] not in url)
    assert site.store.get(site.ids["urgent"])[2][0].verdict == "agree"
    page.goto(f"{site.url}/read/case/{site.ids['nothing']}")
    page.wait_for_selector("canvas[data-drawn=plain]")
    page.keyboard.press("d")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.type("a shadow")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: site.ids["nothing"] not in url)
    (reading,) = site.store.get(site.ids["nothing"])[2]
    assert (reading.verdict, reading.label, reading.comment) == ("own reading", "benign", "a shadow")
    assert problems == []
    page.close()
