"""The work-list as the database has it: filtered, counted and cut into pages, with nothing left out that is not counted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

SIZE = 50
"""Rows of a page."""
SHORTEST, LONGEST = 4, 64
"""Characters of what is searched for."""


@dataclass(frozen=True)
class Filter:
    """Args: read: Those that were read. disease: Of one model only. state: One of `STATES`. search: How an id of a patient, study, request or case
    begins."""

    read: bool = False
    disease: str | None = None
    state: str | None = None
    search: str = ""


ALL = Filter()


@dataclass(frozen=True)
class Case:
    """One of the list. `answer` is what the client got; of a recording's windows the list gives the most urgent one, and `windows` says how many;
    `asked`: how often this very sample was asked about; `last`: who read it last, as what, and when."""

    id: str
    time: datetime
    disease: str
    request_id: str
    urgency: float
    answer: Mapping[str, Any]
    read: bool
    state: str
    patient: str | None
    study: str | None
    windows: int = 1
    asked: int = 1
    last: tuple[datetime, str, str, str | None] | None = None


@dataclass(frozen=True)
class Page:
    """Args:
    cases: Of this page. total: Of all pages. number, pages: From 1.
    open, read: Of the whole list, whatever the filter. states, diseases: How many of each there are, with the rest of the filter.
    """

    cases: Sequence[Case]
    total: int
    number: int
    pages: int
    size: int
    open: int
    read: int
    states: Mapping[str, int] = field(default_factory=dict)
    diseases: Mapping[str, int] = field(default_factory=dict)

    @property
    def first(self) -> int:
        return (self.number - 1) * self.size + 1 if self.cases else 0


COLUMNS = "id, time, disease, request_id, urgency, answer, read, state, patient, study"
_ITEMS = """
with rows as (select * from cases where read = :read and (:disease is null or disease = :disease) and (:q = '' or :q in
    (substr(patient, 1, :n), substr(study, 1, :n), substr(id, 1, :n))
    or id in (select case_id from asks where substr(request_id, 1, :n) = :q))),
  items as (select id, time, disease, request_id, max({key}) as most, urgency, answer, read, state, patient, study, read_at, count(*) as windows
    from rows group by recording)
"""
"""The columns beside `max` are those of the row with the largest one: SQLite's promise where it stands alone."""


def page_of(db: sqlite3.Connection, chosen: Filter, number: int, size: int | None) -> Page:
    """The page `number`, or the last one where there are fewer. Args: size: Rows of it; None: all in one page."""
    items = _ITEMS.format(key="read_at" if chosen.read else "urgency")
    given = {"read": int(chosen.read), "disease": chosen.disease, "q": chosen.search, "n": len(chosen.search)}
    states = dict(db.execute(f"{items} select state, count(*) from items group by state", given).fetchall())  # noqa: S608 - words of ours
    diseases = dict(db.execute(f"{items} select disease, count(*) from items group by disease", given | {"disease": None}).fetchall())  # noqa: S608
    total = states.get(chosen.state, 0) if chosen.state else sum(states.values())
    each = size or max(1, total)
    pages = max(1, -(-total // each))
    number = min(max(1, number), pages)
    order = "read_at desc, id" if chosen.read else "urgency desc, time, id"
    rows = db.execute(
        f"{items} select {COLUMNS}, windows from items where :state is null or state = :state order by {order} limit :size offset :skip",  # noqa: S608
        given | {"state": chosen.state, "size": each, "skip": (number - 1) * each},
    ).fetchall()
    whole = dict(db.execute("select read, count(distinct recording) from cases group by read").fetchall())
    cases = tuple(_case(db, row) for row in rows)
    return Page(cases, total, number, pages, each, whole.get(0, 0), whole.get(1, 0), states, diseases)


def windows_of(db: sqlite3.Connection, name: str) -> list[Case]:
    """Of the recording that a case is one of, in order of time."""
    sql = f"select {COLUMNS} from cases where recording = (select recording from cases where id = ?) order by json_extract(answer, '$.part.window')"  # noqa: S608
    return [_case(db, row) for row in db.execute(sql, (name,)).fetchall()]


def case_of(db: sqlite3.Connection, name: str) -> tuple[Case, dict[str, Any]] | None:
    """A case, and what is kept of its sample beside the pixels. Also by the id of an ask about the same sample."""
    named = "coalesce((select case_id from asks where id = ?), ?)"
    row = db.execute(f"select {COLUMNS}, query from cases where id = {named}", (name, name)).fetchone()  # noqa: S608 - names of ours
    return None if row is None else (_case(db, row[:-1]), json.loads(row[-1]))


def _case(db: sqlite3.Connection, row: Sequence[Any]) -> Case:
    name, time, disease, request_id, urgent, answer, read, *rest = row
    asked = db.execute("select count(*) from asks where case_id = ?", (name,)).fetchone()[0]
    last = db.execute("select time, who, verdict, label from readings where case_id = ? order by time desc limit 1", (name,)).fetchone()
    windows = rest[3] if len(rest) > 3 else 1
    told = None if last is None else (datetime.fromisoformat(last[0]), *last[1:])
    state, patient, study = rest[:3]
    return Case(
        name, datetime.fromisoformat(time), disease, request_id, urgent, json.loads(answer), bool(read), state, patient, study,
        windows=windows, asked=asked, last=told,
    )  # fmt: skip
