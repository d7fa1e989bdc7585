"""What a model server answered: one record per sample, on disk before the answer leaves, and what became of the requests without an answer.

A log is a folder:

    000007.log        a segment that is, or was, written by one process: a line per record, `<CRC-32> <JSON>`       (lines.py, segments.py)
    000007.lost       beside it: how many records the disk refused meanwhile; its space is taken before it is needed (losses.py)
    000006.parquet    a segment whose writer is gone, compacted; it stands for its .log and its .lost                (compaction.py, sealed.py)
    segments.manifest what became of each segment, and the digest of each compacted one: what the log must hold      (manifest.py)

    writer.py     InferenceLog: appends, counts what cannot be written
    reader.py     read_log, batches, summary: every record once, whichever form it has
    incremental.py  since: what is new
    tables.py     the columns, and records as tables
    erasure.py    taking a patient's records out
    events.py     halves of one request that a collector took separately

The writer is the server, the reader is the monitor: that is why the format stands here, below both. See docs/decisions/0061 and 0233.
"""

from components.core.inference_log.compaction import compact
from components.core.inference_log.erasure import erase
from components.core.inference_log.incremental import since
from components.core.inference_log.lines import frame
from components.core.inference_log.reader import Tally, batches, read_log, summary
from components.core.inference_log.tables import COLUMNS, IMAGE_FEATURES
from components.core.inference_log.writer import SEGMENT_BYTES, InferenceLog

__all__ = [
    "COLUMNS",
    "IMAGE_FEATURES",
    "SEGMENT_BYTES",
    "InferenceLog",
    "Tally",
    "batches",
    "compact",
    "erase",
    "frame",
    "read_log",
    "since",
    "summary",
]
