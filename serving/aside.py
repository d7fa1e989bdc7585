"""Work that goes on beside the server, on a thread of its own, for as long as a block lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def aside(name: str, work: Callable[[threading.Event], None], *, awaited: bool = True) -> Iterator[None]:
    """`work(stop)` while the block lasts; at its end `stop` is set.

    Args:
        name: Of the thread.
        work: Returns soon after `stop` is set.
        awaited: Whether the block's end waits for it; not for what may hang in a library.
    """
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        if awaited:
            thread.join()
