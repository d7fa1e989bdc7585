"""The work-list in pages: every case is on one, and what is not shown is counted. All data is made up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.policy import Policy
from serving.reading.cases import CaseStore, Reading, now
from serving.reading.work_list import SIZE
from tests.serving.reading.site import PATIENT, Site, patch, running

MORE = 2 * SIZE + 7
CASE = re.compile(r"/read/case/([0-9a-f]{32})")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("list")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DXFLOW_HOME", str(folder / "home"))
        found = Site(folder, Policy("127.0.0.1"))
        for n in range(MORE):
            found.add(f"more {n}", "lung-nodule", patch(-0.9 + n * 1.6 / MORE, 100 + n))
    with running(found.app) as found.url:
        yield found


def get(site: Site, path: str) -> str:
    return httpx.get(site.url + path, timeout=60).text


def shown(text: str) -> list[str]:
    return CASE.findall(text)


def test_every_case_is_on_one_page_and_each_page_says_which_of_how_many(site: Site) -> None:
    whole = site.store.list()
    total, seen, path = len(whole), list[str](), "/read"
    for page in range(1, 4):
        text = get(site, path)
        seen += shown(text)
        last = min(page * SIZE, total)
        assert f"{(page - 1) * SIZE + 1}-{last} of {total}" in text
        following = re.search(r'<a rel="next" href="([^"]+)"', text)
        assert (following is None) == (page == 3)
        path = following[1].replace("&amp;", "&") if following else ""
    assert seen == [case.id for case in whole]
    assert shown(get(site, "/read?page=99")) == seen[2 * SIZE :]  # beyond the last: the last


def test_states_and_models_are_counted_and_choose(site: Site) -> None:
    page, text = site.store.page(), get(site, "/read")
    assert sum(page.states.values()) == page.total
    for state, n in page.states.items():
        assert f"{state} <b>{n}</b>" in text
        chosen = get(site, f"/read?state={state}&model=lung-nodule")
        own = [case.id for case in page.cases if case.state == state and case.disease == "lung-nodule"]
        assert shown(chosen) == own[:SIZE]
        assert (f"of {len(own)}</span>" in chosen) == bool(own)
    assert "No case that waits fits this choice." in get(site, "/read?model=retinopathy-screening")
    assert httpx.get(site.url + "/read?state=all", timeout=60).status_code == 404


def test_a_patient_is_found_by_the_beginning_of_the_pseudonym_and_an_answer_by_its_request(site: Site) -> None:
    own = [case.id for case in site.store.list() if case.patient == PATIENT]
    text = get(site, f"/read?q={PATIENT[:6].upper()}")
    assert (shown(text), f"1-{SIZE} of {len(own)}" in text) == (own[:SIZE], True)
    assert f'rel="next" href="/read?q={PATIENT[:6]}&amp;page=2"' in text
    case = site.store.get(site.ids["volume"])[0]
    assert shown(get(site, f"/read?q={case.request_id}")) == [case.id]
    for wrong in ("%25", "' or 1=1", "abc", "f" * 65, "Miller"):
        reply = httpx.get(site.url + "/read", params={"q": wrong}, timeout=60)
        assert reply.status_code == 404
        assert wrong not in reply.text


@pytest.mark.parametrize("page", ["-1", "x", "1e3", "٣", "9999999"])
def test_a_page_that_is_no_number_is_one_line(site: Site, page: str) -> None:
    reply = httpx.get(site.url + "/read", params={"page": page}, timeout=60)
    assert (reply.status_code, "no such page" in reply.text.lower()) == (404, True)


def test_those_that_were_read_show_the_verdict_the_reader_and_the_time_the_last_first(site: Site) -> None:
    for n, verdict in enumerate(("agree", "disagree")):
        site.store.tell(site.ids[f"more {n}"], Reading(now(), f"dr-{n}", verdict, "malignant", ""))
    text = get(site, "/read?read=1")
    assert shown(text) == [site.ids["more 1"], site.ids["more 0"]]
    assert "<b>disagree: malignant</b><br><small>dr-1, <time" in text


def test_the_same_picture_asked_again_is_one_row_with_a_count(site: Site) -> None:
    before = site.store.page().total
    query, answer = site.store.get(site.ids["urgent"])[1], site.store.get(site.ids["urgent"])[0]

    query = replace(query, patient=answer.patient, study=answer.study)
    for n in range(2):
        site.store.add(query, dict(answer.answer) | {"request_id": f"{n:x}{'f' * 31}"}, ["malignant"], now())
    assert site.store.page().total == before
    assert "asked 3 times" in get(site, "/read")
    assert shown(get(site, f"/read?q=1{'f' * 31}")) == [site.ids["urgent"]]


def test_what_went_unread_and_what_could_not_be_kept_is_told(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CaseStore(tmp_path / "reading", most=1)
    case, query, _ = site.store.get(site.ids["urgent"])
    for n in range(3):
        store.add(query, dict(case.answer) | {"request_id": f"{n:032x}", "digest": f"{n}"}, ["malignant"], now())
        store.take_in()
    store.lost = 2
    monkeypatch.setattr(site.page, "_cases", store)
    text = get(site, "/read")
    assert "2 cases that nobody had read went, last on" in text
    assert "more than 1 cases." in text
    assert "2 cases could not be kept since the server started" in text
    store.close()


def test_a_telephone_shows_it_without_scrolling_sideways_and_keys_turn_pages(site: Site, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    for path in ("/read", "/read?read=1", f"/read?of={site.walk[0]}", f"/read/case/{site.ids['urgent']}", f"/read/case/{site.walk[0]}"):
        page.goto(site.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, path
    page.goto(site.url + "/read")
    page.keyboard.press("n")
    page.wait_for_url(lambda url: "page=2" in url)
    page.keyboard.press("p")
    page.wait_for_url(lambda url: "page=1" in url)
    page.keyboard.press("j")
    page.keyboard.press("j")
    second = page.evaluate("document.activeElement.getAttribute('href')")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url.endswith(second))
    page.goto(site.url + "/read")
    page.emulate_media(media="print")
    hidden = page.evaluate("getComputedStyle(document.querySelector('.choice')).display")
    border = page.evaluate("getComputedStyle(document.querySelector('.synthetic')).borderTopWidth")
    assert (hidden, border) == ("none", "3px")
    page.close()
