"""Which places of DXFLOW_HOME there are, who takes a patient out of each, and where `dxflow erase` may delete files. Data only.

What stands in no room is somebody else's: it is searched and told, and never touched. A new place of the product gets a line here: a test walks a
home that every part of the product has written in, and another one reads every `home() / "..."` of the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Literal

What = Literal["swept", "owned", "silent", "searched"]
"""What erase does: `swept`: datasets, tables, packages and texts that name the patient go (`erase_files`); `owned`: the owner takes records out, and
no file goes; `silent`: names no patient by design and must stay, so it is not even searched; `searched`: stays, and is told where it names them."""


@dataclass(frozen=True)
class Room:
    """Args: pattern: Of the beginning of a path below DXFLOW_HOME, a part at a time. owner: The module that knows what is in it."""

    pattern: str
    what: What
    owner: str


ROOMS = (
    Room("inference-log", "owned", "components.core.inference_log.erasure"),
    Room("demo/inference-log", "owned", "components.core.inference_log.erasure"),
    Room("monitor/*/labels", "owned", "components.monitor.erasure"),
    Room("monitor/*/inbox", "owned", "components.monitor.erasure"),
    Room("monitor/*/*.db*", "owned", "components.monitor.erasure"),
    Room("monitor/*/reports", "swept", "pipelines.erase_files"),
    Room("monitor", "searched", "components.monitor"),
    Room("pacs", "owned", "serving.pacs.ledger"),
    Room("reading", "owned", "serving.reading.cases"),
    Room("store", "owned", "components.register.erasure"),
    Room("scratch", "owned", "components.core.scratch"),
    *(
        Room(name, "swept", "pipelines.erase_files")
        for name in (
            "cache", "dashboard", "demo", "drift", "features", "fitted", "mlartifacts", "packages", "pipeline_root", "refused", "runs", "work",
        )
    ),
    Room("audit", "silent", "serving.access.audit"),
    Room("audit-heads", "silent", "serving.access.audit"),
    Room("audit.key*", "silent", "serving.access.audit"),
    Room("pseudonym.key*", "silent", "components.core.pseudonym"),
    Room("erasing", "silent", "pipelines.erase_plan"),
    Room("erasures.jsonl", "silent", "pipelines.erase_record"),
    Room("erase.lock", "silent", "pipelines.erase"),
    Room("locks", "searched", "pipelines.run"),
    Room("mlflow.db*", "searched", "components.core.registry"),
)  # fmt: skip


def rooms_of(path: PurePath) -> list[Room]:
    """The rooms of a path relative to DXFLOW_HOME: one, or none for what is not ours. Where two patterns fit, the longer one is meant."""
    fitting = [room for room in ROOMS if _fits(room.pattern, path)]
    deepest = max((room.pattern.count("/") for room in fitting), default=0)
    return [room for room in fitting if room.pattern.count("/") == deepest]


def room_of(path: PurePath) -> Room | None:
    return next(iter(rooms_of(path)), None)


def _fits(pattern: str, path: PurePath) -> bool:
    parts = pattern.split("/")
    return len(path.parts) >= len(parts) and all(fnmatchcase(own, part) for own, part in zip(path.parts, parts, strict=False))
