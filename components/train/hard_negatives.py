"""Hard negatives: what the model wrongly calls positive among its own training samples is shown to it again, more often.

Wang et al. 2016 (arXiv:1606.05718) enrich the training set with false-positive regions of a first model and train again; so does this, from
the same random start, since a family's contract knows no other. The round that is best on validation is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from components.core import scratch
from components.core.errors import SpecError
from components.core.models.family import Epoch, Estimator
from components.core.models.family_figures import best_epoch
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

AGAIN = 3  # times that a false alarm comes in an epoch of the next round
BATCH = 256


def rounds(spec: DiseaseSpec) -> int:
    """Extra rounds that the spec asks for. Raises SpecError where a negative is not defined."""
    if spec.aggregate is None or not spec.aggregate.options.get("hard_negatives"):
        return 0
    wanted = spec.aggregate.options["hard_negatives"]
    if spec.target.kind != "binary" or not isinstance(wanted, int) or not 0 <= wanted <= 5:
        where = f"{spec.name}: aggregate.options.hard_negatives"
        raise SpecError("hard negatives need a binary target", where=where, got=wanted, allowed="0 to 5, binary targets")
    return wanted


def refit(
    spec: DiseaseSpec, estimator: Estimator, history: list[Epoch], train: Samples, again: Callable[[Samples, int], list[Epoch]]
) -> tuple[list[Epoch], dict[str, int]]:
    """Go on from a first fit.

    Args:
        history: Of the first fit.
        again: Fits the estimator on other training samples, in round 2, 3, ...; returns its history.

    Returns:
        The history of the round that is kept, and {`round`, `hard_negatives`}: which it is, and how many false alarms went into it.
    """
    with scratch.room("hard-negatives") as best:
        kept, facts = history, {"round": 1, "hard_negatives": 0}
        estimator.save(best)
        for number in range(2, rounds(spec) + 2):
            rows = false_alarms(spec, estimator, train)
            if not len(rows):
                break
            found = again(enriched(train, rows), number)
            if best_epoch([best_epoch(kept), best_epoch(found)]) is not best_epoch(kept):
                kept, facts = found, {"round": number, "hard_negatives": len(rows)}
                estimator.save(best)
        estimator.load(best)
    return kept, facts


def false_alarms(spec: DiseaseSpec, estimator: Estimator, samples: Samples) -> NDArray[np.int64]:
    """Row numbers of the negatives that the model calls positive."""
    k = spec.positive_index
    found = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(samples), BATCH):
        rows = np.arange(start, min(start + BATCH, len(samples)))
        rows = rows[np.asarray(samples.labels)[rows] != k]
        if len(rows):
            found.append(rows[estimator.scores(samples.batch(rows)).argmax(1) == k])
    return np.concatenate(found)


def enriched(samples: Samples, rows: NDArray[np.int64]) -> Samples:
    """The same samples with `rows` in them `AGAIN` times."""
    index = np.concatenate([np.arange(len(samples)), np.repeat(rows, AGAIN - 1)])
    devices = None if samples.devices is None else samples.devices[index]
    return Samples(batch=lambda chosen: samples.batch(index[chosen]), labels=samples.labels[index], groups=samples.groups[index], devices=devices)
