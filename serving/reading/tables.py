"""The database of the reading page: its tables, their version, and how an older one becomes the present one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.errors import ServiceError

VERSION = 2
"""`PRAGMA user_version`. 1: before versions were written (it says 0). 2: states, recordings, images, asks, what was removed unread."""
URGENT, POSSIBLE, NOTHING, ROUTINE = "urgent", "not ruled out", "no answer", "routine"
STATES = (URGENT, POSSIBLE, NOTHING, ROUTINE)
"""In their order on the list."""

_FIRST = """
create table if not exists cases (
  id text primary key, time text not null, disease text not null, request_id text not null, patient text, study text, urgency real not null,
  answer text not null, query text not null, read integer not null default 0);
create table if not exists readings (
  case_id text not null references cases(id) on delete cascade, time text not null, who text not null, verdict text not null, label text,
  comment text not null);
"""
_SECOND = """
drop view if exists listed;
drop index if exists by_urgency;
alter table cases add column state text not null default 'routine';
alter table cases add column recording text not null default '';
alter table cases add column image text;
alter table cases add column read_at text;
create index by_urgency on cases (read, urgency desc, time);
create index by_image on cases (image);
create table asks (id text primary key, case_id text not null references cases(id) on delete cascade, request_id text not null, time text not null);
create index by_case on asks (case_id);
create table removed (reason text primary key, n integer not null, last text not null);
insert into asks select id, id, request_id, time from cases;
update cases set recording = case when json_extract(answer, '$.part.window') is null then id
  else substr(request_id, 1, 32) || '/' || coalesce(json_extract(answer, '$.part.file'), '') end;
update cases set read_at = (select max(time) from readings where case_id = cases.id) where read;
"""


def opened(path: Path, *, wait_s: float = 30.0) -> sqlite3.Connection:
    """A connection that threads may share, by turns.

    Raises:
        ServiceError: Not such a database, or of a newer dxflow. sqlite3.Error: It is locked, or cannot be written.
    """
    db = sqlite3.connect(path, check_same_thread=False, timeout=wait_s, isolation_level=None)
    try:
        db.execute("pragma secure_delete = on")
        db.execute("pragma foreign_keys = on")
        if version(db) < VERSION:
            db.execute("pragma journal_mode = wal")
            _renew(db)
        if version(db) > VERSION:
            raise ServiceError("the cases were written by a newer dxflow", where=str(path), got=f"version {version(db)}", allowed=f"up to {VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def version(db: sqlite3.Connection) -> int:
    return int(db.execute("pragma user_version").fetchone()[0])


def _renew(db: sqlite3.Connection) -> None:
    """All of it or nothing, once, whoever else starts at the same time."""
    db.execute("begin immediate")
    try:
        if version(db) < VERSION:
            for statement in (*_FIRST.split(";"), *_SECOND.split(";")):
                db.execute(statement)
            for name, answer, urgent in db.execute("select id, answer, urgency from cases").fetchall():
                found = json.loads(answer)
                positive = [str(name) for name in [(found.get("operating_point") or {}).get("positive")] if name]
                state = URGENT if urgent >= 2 else state_of(found, positive)
                moved = urgency(found, positive) if state == POSSIBLE else urgent
                db.execute("update cases set state = ?, urgency = ? where id = ?", (state, moved, name))
            db.execute(f"pragma user_version = {VERSION}")
        db.execute("commit")
    except BaseException:
        db.execute("rollback")
        raise


def state_of(answer: Mapping[str, Any], positive: Sequence[str]) -> str:
    """Which part of the list a case belongs to. A decision that is negative, while a positive class cannot be excluded, is not routine; neither is
    one about a sample that is like no class."""
    if answer["abstain"]:
        return NOTHING
    if set(str(answer["decision"]).split("+")) & set(positive):
        return URGENT
    kept = (answer.get("uncertainty") or {}).get("set")
    return POSSIBLE if positive and kept is not None and (not kept or set(kept) & set(positive)) else ROUTINE


def urgency(answer: Mapping[str, Any], positive: Sequence[str]) -> float:
    """2 to 3: the decision is positive, by its probability; 1.25 to 1.75: it is not, and cannot rule it out; 1: nobody but the reader can tell; 0 to
    1: the rest."""
    p = float(sum(v for name, v in answer["probabilities"].items() if name in positive)) if positive else 0.0
    return {URGENT: 2.0 + p, POSSIBLE: 1.25 + p / 2, NOTHING: 1.0, ROUTINE: p}[state_of(answer, positive)]
