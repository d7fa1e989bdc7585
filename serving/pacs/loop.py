"""The loop: look at the archive's studies, judge those that have stopped arriving, store the answers, and know after any kill where it was.

    arriving -> working -> judged -> answered
                  |-> declined, failed

Before anything is judged or stored, the archive is asked whether the report is already there: its UID is always the same. So it is there once
for each study, model and set of images, whatever happens in between. A study that grows afterwards is looked at again: where the images that the
rules select are the same, nothing happens; where they are others, there is a new report that names the earlier one as its predecessor.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

from components.core import inference_log
from components.core.errors import DataError, ServiceError
from components.core.pacs_rules import PacsRules
from components.core.pseudonym import Pseudonymiser
from serving.journal import Journal
from serving.pacs import answer as answers
from serving.pacs import overlay
from serving.pacs.answer import StudyAnswer, source
from serving.pacs.dicomweb import DicomWeb, Listed, Refused, text
from serving.pacs.facts import ImageFacts, of_image
from serving.pacs.identity import Identity, fingerprint
from serving.pacs.ledger import ANSWERED, ARRIVING, DECLINED, FAILED, JUDGED, WORKING, Entry, Ledger
from serving.pacs.report import report
from serving.pacs.selection import Choice, Declined, choose
from serving.predictor import Predictor

ATTEMPTS = 6
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 600.0
OPEN = (ARRIVING, WORKING, JUDGED)


class Judge(Protocol):
    def answer(self, files: list[bytes]) -> StudyAnswer: ...


@dataclass(frozen=True)
class Station:
    """A model, its rules, and what makes an answer of a study's files."""

    model: Predictor
    rules: PacsRules
    judge: Judge


class Changed(Exception):
    """The study changed while it was worked on."""


def nothing(_: dict[str, Any]) -> None:
    """Tell nobody."""


class Loop:
    """The work on one archive. Not for several threads, nor several processes with one ledger.

    Args:
        journal: Of the inference log, which gets every answer.
        stable_s: A study is judged when its images have been the same for so long.
        days: Only studies dated that many days back or later; None for all.
        tell: Gets an event for each step: `event`, `study` (keyed hash), `model`, and counts or reasons; nothing that names a patient.
        now: Seconds since 1970.
    """

    def __init__(
        self, web: DicomWeb, stations: Iterable[Station], ledger: Ledger, journal: Journal, pseudonymiser: Pseudonymiser, *, stable_s: float = 60.0,
        days: int | None = None, tell: Callable[[dict[str, Any]], None] = nothing, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._web, self._stations, self._ledger, self._journal, self._key = web, tuple(stations), ledger, journal, pseudonymiser
        self._stable_s, self._days, self._tell, self._now = stable_s, days, tell, now
        self._others: dict[tuple[str, str], str] = {}
        """Studies that do not concern a model, with their counts: only in memory, so that no trace is kept of people whom nobody asked about."""

    def once(self) -> int:
        """One pass over the archive.

        Returns:
            How many of its studies still wait to be judged: they arrive, or are tried again later.

        Raises:
            ServiceError: The archive cannot be reached, or the disk is full. What was begun goes on with the next pass.
        """
        since = date.fromtimestamp(self._now()) - timedelta(days=self._days) if self._days is not None else None
        waiting = 0
        for listed in self._web.studies(since):
            for station in self._stations:
                entry = self._seen(listed, station)
                if entry is not None and self._due(entry):
                    entry = self._tried(entry, listed, station)
                waiting += entry is not None and entry.state in OPEN
        return waiting

    def _seen(self, listed: Listed, station: Station) -> Entry | None:
        """The study's entry, brought up to date with the archive; None where the study does not concern the model."""
        study, package = self._key.id("study", listed.uid), station.model.package
        counts = f"{listed.series}/{listed.images}" if listed.series is not None and listed.images is not None else ""
        entry = self._ledger.get(study, package.digest)
        if entry is None:
            foreign = bool(listed.modalities) and not listed.modalities & set(station.rules.modalities)
            if foreign or (counts and self._others.get((study, package.digest)) == counts):
                return None
            patient = self._key.id("patient", listed.patient) if listed.patient else ""
            entry = Entry(study=study, digest=package.digest, model=package.name, patient=patient, since=self._now())
        elif counts and counts == entry.counts and entry.state not in OPEN:
            return entry
        images = self._images(listed.uid, station)
        if images != entry.images:
            again = entry.images != ""
            entry = replace(entry, images=images, since=self._now(), state=ARRIVING, made_at="", attempts=0, next_at=0.0, reasons=())
            self._say("grown" if again else "seen", entry)
        entry = replace(entry, counts=counts)
        self._ledger.put(entry)
        return entry

    def _images(self, study: str, station: Station) -> str:
        """Fingerprint of what a study holds of the model's modalities, but our own pictures."""
        own = self._own(study)
        rows = [row for row in self._web.series(study) if text(row, "00080060") in station.rules.modalities and text(row, "0020000E") not in own]
        return fingerprint((f"{text(row, '0020000E')}/{text(row, '00201209')}" for row in rows), self._key)

    def _own(self, study: str) -> set[str]:
        digests = {s.model.package.digest for s in self._stations}
        return {Identity(study, digest, "", self._key).series("picture") for digest in digests}

    def _due(self, entry: Entry) -> bool:
        now = self._now()
        if entry.state not in OPEN or now < entry.next_at:
            return False
        return entry.state != ARRIVING or now - entry.since >= self._stable_s

    def _tried(self, entry: Entry, listed: Listed, station: Station) -> Entry:
        """Work on a study; every way in which that can end leaves an entry that says so."""
        if entry.attempts >= ATTEMPTS:
            return self._put(replace(entry, state=FAILED, reasons=("the process ended every time it worked on this study",)))
        recovered = entry.state != ARRIVING
        made_at = entry.made_at or datetime.fromtimestamp(self._now(), UTC).isoformat()
        entry = self._put(replace(entry, state=WORKING, attempts=entry.attempts + 1, made_at=made_at, reasons=()))
        try:
            return self._worked(entry, listed.uid, station, recovered=recovered)
        except Changed:
            return self._put(replace(entry, state=ARRIVING, since=self._now(), attempts=0, made_at=""))
        except Refused as error:
            return self._put(replace(self._now_of(entry), state=FAILED, reasons=(str(error),)))
        except DataError as error:
            return self._put(replace(entry, state=DECLINED, reasons=(str(error),)))
        except ServiceError as error:
            back = replace(self._now_of(entry), state=ARRIVING, attempts=entry.attempts - 1)
            try:
                next(iter(self._web.studies(None)), None)
            except ServiceError:  # not this study's fault: nobody is there
                self._put(back)
                raise
            return self._later(entry, str(error))
        except Exception as error:  # a defect of ours or of a library; its text may hold a value of a header
            if os.environ.get("DXFLOW_DEBUG"):
                raise
            return self._later(entry, f"a defect of dxflow: {type(error).__name__}")

    def _now_of(self, entry: Entry) -> Entry:
        """The entry as the work on it left it."""
        return self._ledger.get(entry.study, entry.digest) or entry

    def _later(self, entry: Entry, reason: str) -> Entry:
        entry = self._now_of(entry)
        if entry.attempts >= ATTEMPTS:
            return self._put(replace(entry, state=FAILED, reasons=(reason,)))
        wait = min(FIRST_WAIT_S * 2 ** (entry.attempts - 1), LONGEST_WAIT_S)
        return self._put(replace(entry, state=ARRIVING, next_at=self._now() + wait, reasons=(reason,)))

    def _worked(self, entry: Entry, study: str, station: Station, *, recovered: bool) -> Entry:
        package, began = station.model.package, time.perf_counter()
        choice = self._chosen(study, station)
        if isinstance(choice, Declined):
            if not choice.concerned:
                self._others[entry.study, entry.digest] = entry.counts
                self._ledger.drop(entry)
                return replace(entry, state=DECLINED, reasons=choice.reasons)
            return self._put(replace(entry, state=DECLINED, reasons=choice.reasons))
        identity = Identity(study, package.digest, fingerprint((i.sop for i in choice.images), self._key), self._key)
        self._say("chosen", entry, images=len(choice.images))
        if self._web.held(study, [identity.uid("report")]):
            return self._put(replace(entry, state=ANSWERED, answered=identity.images, attempts=0))
        found = station.judge.answer(self._files(study, choice))
        self._say("computed", entry, findings=len(found.items))
        if self._images(study, station) != entry.images:
            raise Changed
        ids = [identity.request(n) for n in range(1, len(found.items) + 1)]
        known = frozenset(ids) if entry.logged == identity.images else self._logged(ids) if recovered else frozenset()
        answers.log(found, ids, self._journal, known=known, started=began)
        self._say("logged", entry, records=len(ids) - len(known))
        entry = self._put(replace(entry, state=JUDGED, logged=identity.images))
        self._store(study, found, station, identity, entry)
        seconds = round(time.perf_counter() - began, 1)
        return self._put(replace(entry, state=ANSWERED, answered=identity.images, attempts=0), findings=len(found.items), seconds=seconds)

    def _chosen(self, study: str, station: Station) -> Choice | Declined:
        own = self._own(study)
        series: dict[str, list[ImageFacts]] = {}
        for row in self._web.series(study):
            uid = text(row, "0020000E")
            if text(row, "00080060") in station.rules.modalities and uid not in own:
                series[uid] = [of_image(image) for image in self._web.metadata(study, uid)]
        return choose(series, station.rules)

    def _files(self, study: str, choice: Choice) -> list[bytes]:
        """The chosen images, in their order. Raises Changed where the archive has not all of them any more."""
        series = {i.series for i in choice.images}
        if len(choice.images) > 1 and len(series) == 1:
            files = self._web.images(study, series.pop())
        else:
            files = [file for i in choice.images for file in self._web.images(study, i.series, i.sop)]
        by_uid = {str(source(file).get("SOPInstanceUID")): file for file in files}
        if any(i.sop not in by_uid for i in choice.images):
            raise Changed
        return [by_uid[i.sop] for i in choice.images]

    def _logged(self, ids: list[str]) -> frozenset[str]:
        """Those of these answers that the inference log has; asked only after a kill."""
        table = inference_log.read_log(self._journal.log.path, keep=lambda part: part[part["request_id"].isin(ids)])
        return frozenset(table["request_id"].dropna()) if len(table) else frozenset()

    def _store(self, study: str, found: StudyAnswer, station: Station, identity: Identity, entry: Entry) -> None:
        """Overlay first, report last: where the report is, all of it is."""
        package, rules, made = station.model.package, station.rules, datetime.fromisoformat(entry.made_at)
        outlines = overlay.segmentation(found, package, rules, identity, made) if rules.overlay == "segmentation" else None
        others = overlay.pictures(found, package, rules, identity, made) if rules.overlay == "picture" else []
        drawn = [*([outlines] if outlines is not None else []), *others]
        written = report(
            found, package, rules, identity, made, outlines=outlines, others=tuple(others), previous=self._previous(study, identity, entry)
        )
        for group in (drawn, [written]):
            held = self._web.held(study, [str(o.SOPInstanceUID) for o in group])
            if missing := [encoded(o) for o in group if str(o.SOPInstanceUID) not in held]:
                self._web.store(study, missing)
                self._say("stored", entry, objects=len(missing))
        if not self._web.held(study, [identity.uid("report")]):
            raise ServiceError("took a report and does not have it", where=self._web.where)

    def _previous(self, study: str, identity: Identity, entry: Entry) -> Any | None:
        """The report that was given about fewer images of this study."""
        before = replace(identity, images=entry.answered)
        if not entry.answered or entry.answered == identity.images or not self._web.held(study, [before.uid("report")]):
            return None
        return source(self._web.images(study, before.series("report"), before.uid("report"))[0])

    def _put(self, entry: Entry, **facts: Any) -> Entry:
        self._ledger.put(entry)
        self._say(entry.state, entry, **facts, **({"reasons": entry.reasons} if entry.reasons else {}))
        return entry

    def _say(self, event: str, entry: Entry, **facts: Any) -> None:
        self._tell({"event": event, "study": entry.study, "model": entry.model, **facts})


def encoded(made: Any) -> bytes:
    """A data set as a DICOM file."""
    out = io.BytesIO()
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()
