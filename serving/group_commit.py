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
    """

    def __init__(self, write: Callable[[Records], object], executor: Executor | None = None) -> None:
        self._write, self._executor = write, executor
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
            error = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._tried, [record for records, _ in group for record in records]
            )
            for _, done in group:
                if done.done():  # its sender is gone; its records are not
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
        self._writer = None

    def _tried(self, records: Records) -> Exception | None:
        try:
            self._write(records)
        except Exception as error:
            return error
        return None
