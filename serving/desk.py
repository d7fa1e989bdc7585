"""One at a time works, for all who want the same: several requests in one run of an engine, or in one sync of a disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serving.tickets import Late, Ticket

G = TypeVar("G")
T = TypeVar("T")


@dataclass(eq=False)
class _Asked:
    """One that waits, and what became of it. `bell` is locked until it leads, or is over."""

    work: Callable[[list[Any]], Sequence[Any]]
    given: Sequence[Any]
    most: int
    ticket: Ticket | None
    leads: bool = False
    found: Sequence[Any] | None = None
    error: BaseException | None = None
    bell: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.bell.acquire()

    @property
    def late(self) -> bool:
        return self.ticket is not None and (self.ticket.gone.is_set() or self.ticket.left_s() <= 0)

    def answer(self) -> None:
        try:
            self.found = self.work(list(self.given))
        except BaseException as error:  # a library may raise anything, and its thread must go on
            self.error = error


class Desk:
    """Whoever comes to it when it is free works; meanwhile others wait, and the first of them works next, for all who want the same as it does.

    Only those are woken whose results are there, and the one who works next: a thread that wakes for nothing costs more than a small network.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: list[_Asked] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def ask(self, work: Callable[[list[G]], Sequence[T]], given: Sequence[G], *, most: int, ticket: Ticket | None = None) -> Sequence[T]:
        """`work(given)`, in one call with what others give the same `work`, on this thread or another's.

        Args:
            work: Items -> as many results, in order, each independent of the others.
            most: Items of one call, unless a single one gives more.

        Raises:
            Late: Before its turn the ticket's deadline passed, or its client went. Whatever `work` raises for these items alone.
        """
        own = _Asked(work, given, most, ticket)
        with self._lock:
            if self._busy:
                self._waiting.append(own)
            else:
                self._busy = own.leads = True
        if not own.leads and not own.bell.acquire(timeout=-1 if ticket is None else max(0.0, ticket.left_s())):
            with self._lock:
                if own in self._waiting:
                    self._waiting.remove(own)
                    raise Late
            own.bell.acquire()  # its turn had come
        if own.leads:
            self._lead(own)
        if own.error is not None:
            raise own.error
        assert own.found is not None
        return own.found

    def _lead(self, own: _Asked) -> None:
        with self._lock:
            group, late = self._group(own)
        try:
            if group:
                _answer(group)
        finally:
            with self._lock:
                if self._waiting:
                    following = self._waiting.pop(0)
                    following.leads = True
                    following.bell.release()
                else:
                    self._busy = False
            for one in (*group, *late):
                if one is not own:
                    one.bell.release()

    def _group(self, own: _Asked) -> tuple[list[_Asked], list[_Asked]]:
        """Who is answered by one call, in the order of arrival, and who no longer wants to be."""
        group: list[_Asked] = []
        late: list[_Asked] = []
        items = 0
        for one in (own, *self._waiting):
            if one.late:
                one.error = Late()
                late.append(one)
            elif one is own or (group and one.work == own.work and items + len(one.given) <= own.most):
                group.append(one)
                items += len(one.given)
        taken = {*group, *late}
        self._waiting = [one for one in self._waiting if one not in taken]
        return group, late


def _answer(group: list[_Asked]) -> None:
    """All at once; where that fails, each alone, so that one does not spoil the others."""
    if len(group) > 1:
        whole = _Asked(group[0].work, [item for one in group for item in one.given], 0, None)
        whole.answer()
        if whole.found is not None:
            at = 0
            for one in group:
                one.found = whole.found[at : at + len(one.given)]
                at += len(one.given)
            return
    for one in group:
        one.answer()
