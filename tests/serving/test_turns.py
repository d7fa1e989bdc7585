"""Two requests at work, one engine: who waits for it when nobody waits for the answer any more is not computed."""

from __future__ import annotations

import asyncio
import threading
import uuid

import pytest

from serving.turns import Late, Ticket, Turns


def ticket(within_s: float = 600) -> Ticket:
    return Ticket(uuid.uuid4().hex, within_s)


class Requests:
    """Of a server without a model: `asked` says who had the engine."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.asked = turns, []
        self.read, self.held, self.go_on = threading.Semaphore(0), threading.Event(), threading.Event()

    def start(self, name: str, own: Ticket, *, holds: bool = False) -> asyncio.Task[None]:
        def engine() -> None:
            self.asked.append(name)
            if holds:
                self.held.set()
                assert self.go_on.wait(60)

        def work() -> None:
            self.read.release()
            self.turns.alone(own, engine)

        return asyncio.create_task(self.turns.run(own, work))


def test_whose_client_goes_while_another_has_the_engine_is_never_computed():
    async def all_of_it() -> list[str]:
        with Turns(8) as turns:
            requests = Requests(turns)
            first = requests.start("first", ticket(), holds=True)
            await asyncio.to_thread(requests.held.wait, 60)
            second = requests.start("second", ticket())
            for _ in range(2):
                await asyncio.to_thread(requests.read.acquire, True, 60)  # it has been read, and wants the engine
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            requests.go_on.set()
            await first
            await requests.start("third", ticket())
            return requests.asked

    assert asyncio.run(all_of_it()) == ["first", "third"]


def test_whose_deadline_passes_while_another_has_the_engine_is_told_so_and_never_computed():
    async def all_of_it() -> list[str]:
        with Turns(8) as turns:
            requests = Requests(turns)
            first = requests.start("first", ticket(), holds=True)
            await asyncio.to_thread(requests.held.wait, 60)
            with pytest.raises(Late):
                await requests.start("second", ticket(0.2))
            requests.go_on.set()
            await first
            await requests.start("third", ticket())
            assert turns.counts["late"] == 1
            return requests.asked

    assert asyncio.run(all_of_it()) == ["first", "third"]
