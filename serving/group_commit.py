"""One synced write for many senders (group commit): who comes while the disk works is written by its next write, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

Records = Sequence[Mapping[str, Any]]


class GroupCommit:
    """Brings records to the disk. For one event loop, which never waits for it.

    Args:
        write: `InferenceLog.append` or `.write`: returns when the records are on the disk, or have been dealt with otherwise.
        executor: Whose threads write; None: the loop's own.
        apart: Where a write fails, each sender's records are tried alone, so that a number that is not finite spoils one request and not its
            neighbours'. Without it the whole write fails for all that shared it.
    """

    def __init__(self, write: Callable[[Records], object], executor: Executor | None = None, *, apart: bool = False) -> None:
        self._write, self._executor, self._apart = write, executor, apart
        self._waiting: list[tuple[Records, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def write(self, records: Records) -> None:
        """Return when `write` has these records. Raises what it raised for them."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((records, done))
        if self._writer is None:
            self._writer = asyncio.create_task(self._work())
        await done

    async def _work(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            errors = await asyncio.get_running_loop().run_in_executor(self._executor, self._tried, [records for records, _ in group])
            for (_, done), error in zip(group, errors, strict=True):
                if done.done():  # its sender is gone; its records are not
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
        self._writer = None

    def _tried(self, group: Sequence[Records]) -> list[Exception | None]:
        """What went wrong for each sender."""
        try:
            self._write([record for records in group for record in records])
            return [None] * len(group)
        except Exception as error:
            if not self._apart or len(group) == 1:
                return [error] * len(group)
            return [found for records in group for found in self._tried([records])]
