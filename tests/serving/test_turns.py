"""Several requests at work, one engine: who waits for the same model is answered by one call, who nobody waits for any more by none."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from components.core.cores import available_cores
from components.core.inference_log import InferenceLog
from components.core.package import ModelPackage
from components.core.pseudonym import Pseudonymiser
from serving.journal import Journal
from serving.model import DiseaseModel
from serving.places import Place
from serving.predictor import Answered, Predictor, Query
from serving.sources import from_folder
from serving.tickets import Late, Ticket
from serving.turns import Turns
from tests.serving.small_package import build, lung_nodule, onnx_bytes, reference


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

    async def holding(self) -> asyncio.Task[None]:
        """The first, which has the engine until `go_on`."""
        first = self.start("first", ticket(), holds=True)
        await asyncio.to_thread(self.held.wait, 60)
        return first

    async def after(self, first: asyncio.Task[None]) -> list[str]:
        """Who had the engine, when the first has gone on and a third has been answered."""
        self.go_on.set()
        await first
        await self.start("third", ticket())
        return self.asked


def test_whose_client_goes_while_another_has_the_engine_is_never_computed():
    async def all_of_it() -> list[str]:
        with Turns(8) as turns:
            requests = Requests(turns)
            first = await requests.holding()
            second = requests.start("second", ticket())
            for _ in range(2):
                await asyncio.to_thread(requests.read.acquire, True, 60)  # it has been read, and wants the engine
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            return await requests.after(first)

    assert asyncio.run(all_of_it()) == ["first", "third"]


def test_whose_deadline_passes_while_another_has_the_engine_is_told_so_and_never_computed():
    async def all_of_it() -> list[str]:
        with Turns(8) as turns:
            requests = Requests(turns)
            first = await requests.holding()
            with pytest.raises(Late):
                await requests.start("second", ticket(0.2))
            asked = await requests.after(first)
            assert turns.counts["late"] == 1
            return asked

    assert asyncio.run(all_of_it()) == ["first", "third"]


def test_who_waits_to_be_read_is_told_at_the_deadline_and_never_read():
    async def all_of_it() -> list[str]:
        with Turns(8) as turns:
            read: list[str] = []
            slow, go_on = threading.Semaphore(0), threading.Event()

            def reading(name: str, own: Ticket) -> Callable[[], None]:
                def work() -> None:
                    with turns.reading(own):
                        read.append(name)
                        slow.release()
                        assert go_on.wait(60)

                return work

            own = [ticket() for _ in range(max(2, available_cores()))]
            first = [asyncio.create_task(turns.run(one, reading("first", one))) for one in own]
            for _ in first:
                await asyncio.to_thread(slow.acquire, True, 60)
            late, gone = ticket(0.2), ticket()
            left = asyncio.create_task(turns.run(gone, reading("gone", gone)))
            with pytest.raises(Late):
                await turns.run(late, reading("late", late))
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            go_on.set()
            await asyncio.gather(*first)
            return read

    assert set(asyncio.run(all_of_it())) == {"first"}


class Model:
    """Doubles numbers; refuses negative ones, whoever they come with. `calls`: the items of each call."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def work(self, items: list[int]) -> list[int]:
        self.calls.append(items)
        if min(items) < 0:
            raise ValueError("negative")
        return [2 * item for item in items]


class Waiting:
    """Requests that come, in order, while another has the engine."""

    def __init__(self, turns: Turns, pool: ThreadPoolExecutor) -> None:
        self._turns, self._pool = turns, pool
        self._held, self._go_on = threading.Event(), threading.Event()

        def hold() -> None:
            self._held.set()
            assert self._go_on.wait(60)

        self._first = pool.submit(turns.alone, None, hold)
        assert self._held.wait(60)

    def ask(self, work: Callable[[list[int]], list[int]], *given: int, most: int = 4, own: Ticket | None = None) -> Future[Sequence[int]]:
        before = self._turns.engine.waiting
        asked = self._pool.submit(self._turns.engine.ask, work, given, most=most, ticket=own)
        while self._turns.engine.waiting == before and not asked.done():
            threading.Event().wait(0.005)
        return asked

    def go_on(self) -> None:
        self._go_on.set()
        self._first.result(60)


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    with Turns(8) as turns, ThreadPoolExecutor(8) as pool:
        yield Waiting(turns, pool)


def test_who_waits_for_the_same_model_is_answered_by_one_call_in_order(waiting: Waiting):
    model = Model()
    asked = [waiting.ask(model.work, 1), waiting.ask(model.work, 2, 3), waiting.ask(model.work, 4)]
    waiting.go_on()
    assert [list(one.result(60)) for one in asked] == [[2], [4, 6], [8]]
    assert model.calls == [[1, 2, 3, 4]]


def test_a_call_takes_no_more_than_the_engine_gains_from_but_a_large_request_whole(waiting: Waiting):
    model = Model()
    asked = [waiting.ask(model.work, n) for n in range(3)] + [waiting.ask(model.work, *range(10, 15))] + [waiting.ask(model.work, 3)]
    waiting.go_on()
    assert [list(one.result(60)) for one in asked] == [[0], [2], [4], [20, 22, 24, 26, 28], [6]]
    assert model.calls == [[0, 1, 2, 3], [10, 11, 12, 13, 14]]


def test_models_are_not_mixed(waiting: Waiting):
    one, other = Model(), Model()
    asked = [waiting.ask(one.work, 1), waiting.ask(other.work, 2), waiting.ask(one.work, 3)]
    waiting.go_on()
    assert [list(a.result(60)) for a in asked] == [[2], [4], [6]]
    assert (one.calls, other.calls) == ([[1, 3]], [[2]])


def test_who_fails_does_not_fail_the_others(waiting: Waiting):
    model = Model()
    asked = [waiting.ask(model.work, n) for n in (1, -1, 2)]
    waiting.go_on()
    assert [list(asked[n].result(60)) for n in (0, 2)] == [[2], [4]]
    with pytest.raises(ValueError, match="negative"):
        asked[1].result(60)
    assert model.calls == [[1, -1, 2], [1], [-1], [2]]


def test_the_desk_is_free_again_after_anything_that_a_library_raises(waiting: Waiting):
    def stops(_: list[int]) -> list[int]:
        raise SystemExit

    asked = [waiting.ask(stops, 1), waiting.ask(Model().work, 2)]
    waiting.go_on()
    with pytest.raises(SystemExit):
        asked[0].result(60)
    assert list(asked[1].result(60)) == [4]
    assert list(waiting.ask(Model().work, 3).result(60)) == [6]


def test_who_is_gone_or_late_is_left_out_of_the_call(waiting: Waiting):
    model, gone, late = Model(), ticket(), ticket(0.3)
    asked = [waiting.ask(model.work, 1, own=gone), waiting.ask(model.work, 2), waiting.ask(model.work, 3, own=late)]
    gone.gone.set()
    with pytest.raises(Late):
        asked[2].result(60)
    waiting.go_on()
    assert list(asked[1].result(60)) == [4]
    with pytest.raises(Late):
        asked[0].result(60)
    assert model.calls == [[2]]


@pytest.mark.parametrize("slides", [True, False])
def test_slides_keep_their_place_among_the_readers_and_are_answered_alone_other_samples_together(slides: bool, tmp_path: Path):
    spec = lung_nodule(normalise={"method": "range", "missing_profile": "abstain"})
    folder = build(tmp_path / "p", spec, reference({"0" * 16: ("SIEMENS", "X")}), onnx=onnx_bytes(tuple(spec.input.shape))).folder
    calls: list[int] = []

    class Counting(Predictor):
        def work(self, queries: Sequence[Query]) -> list[Answered]:
            calls.append(len(queries))
            return super().work([replace(query, tiles=None) for query in queries])

    read: list[Query] = []

    def reading(predictor: Predictor) -> list[Query]:
        read.append(replace(Query(np.zeros(spec.input.shape, np.float32)), tiles=cast(Any, object()) if slides else None))
        return read[-1:]

    at_once, n = max(2, available_cores()), max(2, available_cores()) + 2

    async def all_of_it(turns: Turns, model: DiseaseModel, go_on: threading.Event) -> None:
        tasks = [asyncio.create_task(model._turn(ticket(), reading, lambda answers, _: answers)) for _ in range(n)]
        wanted = at_once if slides else n
        while turns.engine.waiting < wanted:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)  # in which one too many would have been read
        assert len(read) == wanted
        go_on.set()
        await asyncio.gather(*tasks)

    with InferenceLog(tmp_path / "log") as log, Turns(16) as turns, ThreadPoolExecutor(1) as pool:
        journal, held, go_on = Journal(log), threading.Event(), threading.Event()
        place = Place(from_folder(folder), lambda source: Counting(ModelPackage.open(source.fetch()), None), journal.serves)
        assert place.renew()
        calls.clear()
        first = pool.submit(turns.alone, None, lambda: (held.set(), go_on.wait(60)))
        assert held.wait(60)
        asyncio.run(all_of_it(turns, DiseaseModel(place, Pseudonymiser(b"a key of the tests only"), journal, turns), go_on))
        first.result(60)
    assert calls == [1] * n if slides else max(calls) > 1
    assert len(read) == sum(calls) == n
