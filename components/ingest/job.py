"""What a reader works with: the source, the cores and the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.dataset_writer import content_facts
from components.core.imaging.errors import NotUsable
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec, External
from components.core.step import Progress
from components.ingest.journal import Journal, Outcome, Rejected, Unit, arrays_path
from components.ingest.source import Item, Source
from components.ingest.workers import CRASHED, Workers


@dataclass(frozen=True)
class Context:
    """What every worker process has; it never touches a disk, for it holds the key."""

    spec: DiseaseSpec
    source: Source
    pseudonymiser: Pseudonymiser
    folder: Path
    external: External | None = None  # the set that this reader reads; None for the main part

    @property
    def labelled(self) -> bool:
        """Whether every sample needs a label: a set for pre-training may have none, and its rows then hold None."""
        return self.external is None or self.external.role != "pretrain"

    def item(self, number: int) -> Item:
        """File `number` of the source. Raises NotUsable where it is empty, not a regular file, or over the spec's limit."""
        item = self.source.items[number]
        if item.size == 0:
            raise NotUsable("empty file", offset=0)
        if item.size < 0:
            raise NotUsable("a link that leads nowhere" if item.fingerprint == "absent" else "not a regular file")
        if item.size > self.spec.limits.file_mb * 1e6:
            raise NotUsable("file over limits.file_mb")
        return item


@dataclass(frozen=True)
class Task:
    """A piece of work. `key` names it in the journal: the same in every run over the same source."""

    key: str
    payload: Any


Function = Callable[[Context, Task], Outcome]


class Job:
    """One ingest, seen from its reader."""

    def __init__(self, context: Context, journal: Journal, workers: Workers) -> None:
        self.context, self.journal, self._workers = context, journal, workers
        self.rows: int | None = None  # a table's reader says how many samples it announces; damage is then counted in rows, not in files
        self.announced: int | None = None  # rows or files, each of which becomes one sample or is refused with a reason; None where samples are cut

    @property
    def unit(self) -> Unit:
        return "file" if self.rows is None else "row"

    def stage(
        self,
        what: str,
        function: Function,
        tasks: Iterable[Task],
        *,
        total: int,
        size: Callable[[Task], int],
        file: Callable[[Task], int],
        units: Callable[[Task], Iterable[tuple[int, int | None]]] | None = None,
    ) -> None:
        """Run a module-level function over tasks on all cores; outcomes go to the journal, finished tasks of an earlier run are kept.

        Args:
            what: Shown beside the progress bar.
            total: Of what `size` counts in each task.
            file: The file to name when a task takes its process down.
            units: Or all that such a task holds, as (file, line): whatever goes with it is named and counted.
        """
        progress = Progress(what, total)

        def fresh() -> Iterable[Task]:
            for task in tasks:
                if self.journal.done(task.key):
                    progress.advance(size(task))
                else:
                    yield task

        for task, result in self._workers.map(function, fresh()):
            lost = units(task) if units is not None else [(file(task), None)]
            crashed = Outcome(rejected=[Rejected(number, "reading it ends the process", line) for number, line in lost])
            self.journal.record(task.key, crashed if result is CRASHED else result)
            progress.advance(size(task))


class Arrays:
    """Collects the samples of one task: rows with their content facts into `outcome`, arrays into the task's file."""

    def __init__(self, context: Context, task: Task, outcome: Outcome) -> None:
        self._path, self._outcome = arrays_path(context.folder, task.key), outcome
        self._shape, self._dtype = tuple(context.spec.input.shape), np.dtype(context.spec.input.dtype)
        self._handle: BinaryIO | None = None

    def __enter__(self) -> Arrays:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._handle is not None:
            self._handle.close()

    def add(self, row: dict[str, Any], array: NDArray[Any]) -> None:
        """Keep one sample; `array` has the spec's shape and dtype, `row` the manifest columns that the reader knows."""
        assert (array.shape, array.dtype) == (self._shape, self._dtype)
        if self._handle is None:
            self._handle = open(self._path, "wb")  # noqa: SIM115  (closed by __exit__)
        self._handle.write(np.ascontiguousarray(array).data)
        self._outcome.samples.append(row | content_facts(array))
