"""Do equal rows of a table have to be copies? Two men of one age with one figure in their blood are two men; thirty measurements agree by copying.

An image has thousands of values, and equal ones are copies. A row has as much detail as its values are rare: the sum over columns of -log2 of the
share of rows that hold the value. Columns hang together, so the sum counts too much; a row is taken for a copy only far above what tells any two
rows of a table apart (2 log2 of their number: 40 bits for a million). Persons and groups are kept apart by their ids in any case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

COPY_BITS = 100.0  # about twelve columns of measurements; rows of scikit-learn's breast cancers have 245 to 275 in 30 columns


def telling(values: NDArray[np.number], hashes: pd.Series) -> NDArray[np.bool_]:
    """(n,) rows whose equals are copies; true for those that have none.

    Args:
        values: (n, columns) of a table.
        hashes: (n,) of each row's values.
    """
    out = np.ones(len(hashes), dtype=bool)
    equal = np.flatnonzero(hashes.duplicated(keep=False).to_numpy())
    bits = np.zeros(len(equal))
    for column in values.T:
        _, which, counts = np.unique(column, return_inverse=True, return_counts=True)
        bits -= np.log2(counts[which[equal]] / len(column))
    out[equal] = bits >= COPY_BITS
    return out
