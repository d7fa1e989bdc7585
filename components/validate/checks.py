"""What Great Expectations has no expectation for: leakage, devices, privacy, and the bytes themselves.

Each check is a pure function of the manifest and the dataset folder. Findings hold counts and names of columns, classes and devices'
pseudonyms: never a value of a row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import MANIFEST, SPLITS, Dataset
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec
from components.validate.detail import telling
from components.validate.near import NEAR_PAIRS, close_pairs, correlation
from components.validate.neighbours import judged

if TYPE_CHECKING:
    import pandas as pd

NEAR_CORRELATION = 0.98  # after the mean image is taken off
NEAR_DETAIL = 400  # values per sample; below, look-alikes and copies cannot be told apart
HASHED_BYTES = 256 << 20
BLANK_SHARE, BLANK_LIMIT = 0.99, 0.2
FEW = 5  # samples of one class on one device, of one device in one split
SHIFT = 0.15  # share of a class, one split against another
ASSOCIATION = 0.5  # Cramer's V of device and label
OTHER = "other-"  # what ingest makes of a name outside its vocabulary

PRIVATE_NAME = re.compile(
    r"(?i)(^|_)(name|birth|dob|mrn|ssn|address|phone|email|physician|referring|accession|comment|description|patientid|study_date)(_|$|s$)"
)
PRIVATE_TEXT = {
    "a person's name": re.compile(r"[^\W\d_]{2,}\^[^\W\d_]*|\b(Dr|Prof|Mr|Mrs|Ms)\.? [^\W\d_]{2,}"),
    "a date": re.compile(
        r"(?<![\w.])((19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])|(19|20)\d{2}[-/](0?[1-9]|1[0-2])[-/](0?[1-9]|[12]\d|3[01])"
        r"|(0?[1-9]|[12]\d|3[01])[./](0?[1-9]|1[0-2])[./](19|20)\d{2})(?![\w.])"
    ),
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}", re.IGNORECASE),
    "a long number": re.compile(r"(?<![\w.])\d{6,}(?![\w.])"),
}  # fmt: skip
PSEUDONYM = re.compile(rf"[0-9a-f]{{16}}|[0-9a-f]{{64}}|{OTHER}[0-9a-f]{{8}}")  # by chance all digits: one keyed name of 43


@dataclass(frozen=True)
class Finding:
    """What a check saw.

    Args:
        ok: The claim holds.
        seen: One line for a reader.
        figures: The counts behind it.
    """

    ok: bool
    seen: str
    figures: dict[str, float | int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "seen": self.seen, "figures": self.figures}


class Data:
    """What the checks look at; pixels are read when a check asks."""

    def __init__(self, spec: DiseaseSpec, dataset: Dataset, manifest: pd.DataFrame, quarantine: pd.DataFrame) -> None:
        self.spec, self.dataset, self.manifest, self.quarantine = spec, dataset, manifest, quarantine

    @cached_property
    def label(self) -> pd.Series:
        """Class names; missing for labels outside the spec and for multi-label and dense targets."""
        return self.manifest["label"].map(dict(enumerate(self.spec.target.classes)))

    @cached_property
    def main(self) -> pd.Series:
        """Whether a row is of the source that the model is made from, not of an external set."""
        return ~self.manifest["split"].isin([e.split for e in self.spec.external])

    @cached_property
    def place(self) -> pd.Series:
        """Where a sample is used: its split, and with cross-validation its fold; samples of two places must not be copies."""
        fold = self.manifest["fold"].astype("Float64").map(lambda n: f", fold {n:g}", na_action="ignore").astype(object).fillna("")
        return self.manifest["split"].fillna("none") + fold

    @cached_property
    def copies(self) -> pd.Series:
        """The hash of a sample's values; missing for rows of a table that others can equal without being copies."""
        hashes = self.manifest["content_hash"]
        if self.spec.input.layout != "table" or not hashes.duplicated().any() or self.unreadable is not None:
            return hashes
        return hashes.where(telling(self.dataset.read(np.arange(len(hashes))), hashes))

    @property
    def plain(self) -> str:
        """How many rows equal others without being copies, as the end of a line."""
        n = int((self.copies.isna() & self.manifest["content_hash"].notna()).sum())
        return f"; {n} rows equal others, of values that many rows share" if n else ""

    @property
    def part(self) -> str:
        return "split" if self.spec.split.folds == 1 else "split or fold"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold samples of the main source: with cross-validation the folds are the test."""
        return SPLITS if self.spec.split.folds == 1 else ("train", "val")

    @property
    def unreadable(self) -> str | None:
        """What keeps the shards from being read, in words."""
        try:
            rows = len(self.dataset)
        except (ValueError, OSError, EOFError) as error:
            return f"a shard cannot be opened ({type(error).__name__})"
        if not rows:
            return "there are no samples"
        if rows != len(self.manifest):
            return f"shards hold {rows} samples, the manifest {len(self.manifest)}"
        shape = (*self.spec.input.shape,)
        if (got := self.dataset.read(np.arange(1))).shape[1:] != shape:
            return f"samples of shape {list(got.shape[1:])} where the spec says {list(shape)}"
        return None


def private_columns(data: Data) -> Finding:
    """Columns beside the contract whose name speaks of a person."""
    found = sorted(str(c) for c in data.manifest.columns if c not in MANIFEST and PRIVATE_NAME.search(str(c)))
    return Finding(not found, f"{len(found)} columns that speak of a person" if found else "none", {"columns": len(found)})


def private_text(data: Data) -> Finding:
    """Names, dates, addresses and numbers that look like a person's, in any text of the manifest or the quarantine."""
    seen: dict[str, int] = {}
    for table, frame, only in (("manifest", data.manifest, None), ("quarantine", data.quarantine, {"a person's name", "an e-mail address"})):
        for column in frame.select_dtypes("object").columns:
            texts = frame[column].unique() if column not in ("labels", "place") else ()
            values = {v for v in texts if isinstance(v, str) and not PSEUDONYM.fullmatch(v)}
            for kind in only or PRIVATE_TEXT:
                if n := sum(bool(PRIVATE_TEXT[kind].search(v)) for v in values):
                    seen[f"{table}.{column}: {kind}"] = n
    text = "; ".join(f"{where} ({n})" for where, n in sorted(seen.items()))
    return Finding(not seen, f"looks like {text}" if text else "nothing that looks like a person's data", {"values": sum(seen.values())})


def counts(data: Data) -> Finding:
    """dataset.json, the manifest and the splits agree."""
    told, found = data.dataset.info["counts"], data.manifest["split"].value_counts()
    wrong = [name for name in data.spec.manifest_splits if int(told.get(name, -1)) != int(found.get(name, 0))]
    if int(told["samples"]) != len(data.manifest):
        wrong.insert(0, "samples")
    return Finding(not wrong, f"differs in {', '.join(wrong)}" if wrong else f"{len(data.manifest)} samples", {"samples": len(data.manifest)})


def same_spec(data: Data) -> Finding:
    same = data.dataset.info["spec_digest"] == data.spec.digest
    return Finding(same, "the same spec" if same else "the spec has changed since ingest")


def one_origin(data: Data) -> Finding:
    """Synthetic and real samples never share a dataset, and dataset.json says which it is."""
    synthetic = int(data.manifest["synthetic"].fillna(False).astype(bool).sum())
    ok = synthetic in (0, len(data.manifest)) and bool(data.dataset.info["synthetic"]) == (synthetic > 0)
    return Finding(ok, f"{synthetic} of {len(data.manifest)} synthetic", {"synthetic": synthetic})


def splits_filled(data: Data) -> Finding:
    found = data.manifest["split"].value_counts()
    empty = [name for name in data.splits if not found.get(name, 0)]
    filled = ", ".join(f"{n} {found[n]}" for n in data.spec.manifest_splits if found.get(n, 0))
    return Finding(not empty, f"empty: {', '.join(empty)}" if empty else filled, {n: int(found.get(n, 0)) for n in data.spec.manifest_splits})


def labels_present(data: Data) -> Finding:
    """Only a set for pre-training may lack labels."""
    needed = ~data.manifest["split"].isin([e.split for e in data.spec.external if e.role == "pretrain"])
    n = int(data.manifest.loc[needed, "label"].isna().sum())
    return Finding(not n, f"{n} of {int(needed.sum())} missing", {"rows": int(needed.sum()), "unexpected": n})


def folds_filled(data: Data) -> Finding:
    """Every sample of the main source is test in one fold, and no fold is empty."""
    from components.core.folds import fold_numbers

    rows, found = data.manifest[data.main], fold_numbers(data.manifest)
    lost = int(rows["fold"].isna().sum())
    asked = data.spec.split.folds
    ok = not lost and found == list(range(len(found))) and len(found) == (rows["group_id"].nunique() if asked == "group" else asked)
    return Finding(ok, f"{len(found)} folds, {lost} of {len(rows)} samples in none", {"folds": len(found), "lost": lost})


def labels_fit(data: Data) -> Finding:
    """Multi-label: one value per class, each 0 or 1."""
    classes = len(data.spec.target.classes)
    bad = sum(v is None or len(v) != classes or not set(np.asarray(v).tolist()) <= {0.0, 1.0} for v in data.manifest["labels"])
    return Finding(not bad, f"{bad} samples whose labels do not fit", {"unexpected": bad})


def classes_trained(data: Data) -> Finding:
    return _classes_in(data, ("train",))


def classes_judged(data: Data) -> Finding:
    return _classes_in(data, tuple(name for name in data.splits if name != "train"))


def _classes_in(data: Data, splits: tuple[str, ...]) -> Finding:
    table = data.label.groupby(data.manifest["split"]).value_counts().to_dict()
    missing = [f"no '{c}' in {s}" for s in splits for c in data.spec.target.classes if not table.get((s, c))]
    return Finding(not missing, "; ".join(missing) or f"all {len(data.spec.target.classes)} classes", {"missing": len(missing)})


def class_shares(data: Data) -> Finding:
    """No class is much commoner in one split than in another."""
    shares = data.label[data.main].groupby(data.manifest["split"]).value_counts(normalize=True).unstack().fillna(0.0)
    gap = float((shares.max() - shares.min()).max()) if len(shares) else 0.0
    return Finding(gap <= SHIFT, f"largest difference {gap:.3f}", {"difference": round(gap, 6)})


def groups_apart(data: Data) -> Finding:
    return _apart(data, "group_id", data.spec.split.grouping if data.spec.split.grouping != "none" else "group")


def patients_apart(data: Data) -> Finding:
    return _apart(data, "patient_id", "patient")


def _apart(data: Data, column: str, word: str) -> Finding:
    known = data.manifest[data.manifest[column].notna()]
    torn = data.place[known.index].groupby(known[column]).nunique() > 1
    samples = int(known[column].isin(torn.index[torn]).sum())
    text = (
        f"{int(torn.sum())} of {len(torn)} {word}s stand in more than one {data.part} ({samples} samples)"
        if torn.any()
        else f"{len(torn)} {word}s, each in one {data.part}"
    )
    return Finding(not torn.any(), text, {"groups": len(torn), "torn": int(torn.sum()), "samples": samples})


def copies_across(data: Data) -> Finding:
    """The same bytes in two splits."""
    torn = data.place.groupby(data.copies).nunique() > 1
    n = int(torn.sum())
    return Finding(not n, (f"{n} samples also stand in another {data.part}" if n else "none") + data.plain, {"copies": n})


def copies_within(data: Data) -> Finding:
    n = int((data.manifest.duplicated(["content_hash", "split"]) & data.copies.notna()).sum())
    return Finding(not n, (f"{n} samples repeat another of their split" if n else "none") + data.plain, {"copies": n})


def contradictions(data: Data) -> Finding:
    n = int((data.manifest["label"].groupby(data.copies).nunique() > 1).sum())
    return Finding(not n, f"{n} images carry two labels" if n else "none", {"images": n})


def near_copies(data: Data) -> Finding:
    """Almost the same pixels in two splits: recompressed, brightened, resized or re-exported."""
    if problem := data.unreadable:
        return Finding(False, f"cannot be compared: {problem}")
    rows = np.flatnonzero((data.manifest["constant_share"] < BLANK_SHARE).to_numpy())  # blank samples all look alike
    text = data.manifest["near_hash"].iloc[rows]
    if bad := int((~text.str.fullmatch("[0-9a-f]{16}").fillna(False).astype(bool)).sum()):
        return Finding(False, f"{bad} samples whose near_hash is no hash", {"unexpected": bad})
    hashes = np.array([int(h, 16) for h in text], dtype=np.uint64)
    split = data.place.to_numpy()[rows]
    content = data.manifest["content_hash"].to_numpy()[rows]
    pairs, more = close_pairs(hashes, lambda a, b: (split[a] != split[b]) & (content[a] != content[b]))
    left, right = rows[pairs[:, 0]], rows[pairs[:, 1]]
    found = correlation(data.dataset, left, right) >= NEAR_CORRELATION
    n = len(set(left[found]) | set(right[found]))
    text = f"{n} samples have a near-copy in another {data.part}" if n else f"none among {len(pairs)} pairs with a similar hash"
    return Finding(
        not n,
        text + (f"; the closest {NEAR_PAIRS} pairs were compared" if more else ""),
        {"pairs": int(found.sum()), "samples": n, "compared": len(pairs)},
    )


def siblings_across(data: Data) -> Finding:
    """Test samples with a sibling in training (the next slice, another view): closer than independent persons can be, though no copies."""
    if problem := data.unreadable:
        return Finding(False, f"cannot be compared: {problem}")
    return Finding(*judged(data.dataset, data.manifest[data.manifest["constant_share"] < BLANK_SHARE]))


def devices_large(data: Data) -> Finding:
    n = data.manifest.loc[data.main, "device_key"].value_counts()
    few = n[n < data.spec.device.min_n]
    return Finding(
        few.empty, f"{len(few)} of {len(n)} devices have fewer than {data.spec.device.min_n} samples", {"devices": len(n), "few": len(few)}
    )


def devices_known(data: Data) -> Finding:
    n = int((data.manifest["device_key"] == UNKNOWN_DEVICE).sum())
    return Finding(not n, f"{n} of {len(data.manifest)} samples name no device", {"samples": n})


def makers_known(data: Data) -> Finding:
    maker = data.manifest["manufacturer"]
    n = int(maker.fillna("").str.startswith(OTHER).sum())
    return Finding(
        not n,
        f"{n} samples from makers outside the vocabulary; {int(maker.isna().sum())} name none",
        {"samples": n, "unnamed": int(maker.isna().sum())},
    )


def device_classes(data: Data) -> Finding:
    return _filled(data, data.label, data.spec.target.classes, "class")


def device_splits(data: Data) -> Finding:
    return _filled(data, data.manifest["split"], data.splits, "split")


def _filled(data: Data, other: pd.Series, values: tuple[str, ...], word: str) -> Finding:
    import pandas as pd

    device, other = data.manifest.loc[data.main, "device_key"], other[data.main]
    # A value that nowhere occurs has no column in the table, and a table without columns would hold no gap.
    table = pd.crosstab(device, other).reindex(index=device.dropna().unique(), columns=list(values), fill_value=0)
    thin = table < FEW
    text = f"{int(thin.any(axis=1).sum())} of {len(table)} devices have fewer than {FEW} samples of some {word}"
    return Finding(not thin.to_numpy().any(), text, {"devices": len(table), "thin": int(thin.any(axis=1).sum())})


def class_devices(data: Data) -> Finding:
    """A class that one device alone brings cannot be told from that device."""
    device = data.manifest.loc[data.main, "device_key"]
    devices = device.groupby(data.label).nunique()
    lone = sorted(str(c) for c in devices.index[devices == 1]) if device.nunique() > 1 else []
    return Finding(not lone, f"only one device brings {', '.join(lone)}" if lone else "none", {"classes": len(lone)})


def device_association(data: Data) -> Finding:
    """Cramer's V of device and label: 0, the device says nothing about the label; 1, it says everything."""
    import pandas as pd

    table = pd.crosstab(data.manifest.loc[data.main, "device_key"], data.label[data.main]).to_numpy(dtype=float)
    if min(table.shape, default=0) < 2:
        return Finding(True, "one device or one class: nothing to compare", {"v": 0.0})
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    v = float(np.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / (min(table.shape) - 1)))
    return Finding(v <= ASSOCIATION, f"Cramér's V {v:.2f}", {"v": round(v, 6)})


def dates(data: Data) -> Finding:
    """Dates are shifted by a constant of the key, so only absurd ones can be told."""
    when = data.manifest["acquired_at"].dropna()
    bad = int((~when.dt.year.between(1900, 2150)).sum())
    return Finding(not bad, f"{bad} of {len(when)} dates outside 1900 to 2150", {"dates": len(when), "unexpected": bad})


def not_blank(data: Data) -> Finding:
    n = int((data.manifest["constant_share"] >= BLANK_SHARE).sum())
    return Finding(not n, f"{n} of {len(data.manifest)} samples are at least {BLANK_SHARE:.0%} one value", {"blank": n})


def mostly_not_blank(data: Data) -> Finding:
    n = int((data.manifest["constant_share"] >= BLANK_SHARE).sum())
    return Finding(n <= BLANK_LIMIT * len(data.manifest), f"{n} of {len(data.manifest)} samples; at most {BLANK_LIMIT:.0%} allowed", {"blank": n})


def bytes_match(data: Data) -> Finding:
    """SHA-256 of the decoded bytes against the manifest: all samples, or evenly spread ones when there are more than `HASHED_BYTES`."""
    if problem := data.unreadable:
        return Finding(False, problem)
    rows = _spread(data)
    wrong = 0
    wanted = data.manifest["content_hash"].to_numpy()
    for part in np.array_split(rows, -(-len(rows) // 256)):
        samples = data.dataset.read(part)
        wrong += sum(hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest() != wanted[i] for x, i in zip(samples, part, strict=True))
    text = (
        f"{wrong} of {len(rows)} samples differ from the manifest"
        if wrong
        else f"{len(rows)} of {len(data.manifest)} samples hashed again, all equal"
    )
    return Finding(not wrong, text, {"hashed": len(rows), "differ": wrong})


def values_in_range(data: Data) -> Finding:
    """Values that are finite, and not all on one side of the range that the model sees."""
    if problem := data.unreadable:
        return Finding(False, problem)
    low, high = data.spec.input.range
    unit = "" if data.spec.input.unit == "1" else f" {data.spec.input.unit}"
    rows, bad, outside = _spread(data), 0, 0
    for part in np.array_split(rows, -(-len(rows) // 256)):
        x = data.dataset.read(part).reshape(len(part), -1)
        finite = np.isfinite(x).all(axis=1)
        bad += int((~finite).sum())
        outside += int((finite & ((x <= low).all(axis=1) | (x >= high).all(axis=1))).sum())
    text = f"{bad} samples with values that are not finite, {outside} wholly outside {low:g} to {high:g}{unit}"
    return Finding(not bad and outside <= BLANK_LIMIT * len(rows), text, {"not_finite": bad, "outside": outside, "read": len(rows)})


def _spread(data: Data) -> NDArray[np.int64]:
    """Row numbers evenly over all shards, at most `HASHED_BYTES` of them and at least one."""
    one = int(np.prod(data.spec.input.shape)) * np.dtype(data.spec.input.dtype).itemsize
    return np.unique(np.linspace(0, len(data.manifest) - 1, max(1, min(len(data.manifest), HASHED_BYTES // one))).astype(np.int64))


def set_aside(data: Data) -> Finding:
    """Files that ingest could not use; ingest itself stops over the spec's limit."""
    damage = data.quarantine[~data.quarantine["skipped"]]
    n, skipped, limit = len(damage), len(data.quarantine) - len(damage), data.spec.limits.quarantine_share
    share = n / max(1, n + len(data.manifest))
    reason = damage["reason"]
    reasons = reason[~reason.map(lambda r: any(p.search(str(r)) for p in PRIVATE_TEXT.values()))].value_counts().head(3)
    text = f"{n} files" + (": " + ", ".join(f"{reason} ({k})" for reason, k in reasons.items()) if n else "")
    return Finding(share <= limit, text + (f"; {skipped} others were not meant, or repeat one" if skipped else ""), {"files": n, "skipped": skipped})


def tables_read(dataset: Path) -> Dataset:
    """The dataset, with a DataError in place of whatever a broken parquet file raises."""
    from components.core.errors import DataError

    data = Dataset(dataset)
    for name in ("manifest", "quarantine"):
        try:
            getattr(data, name)
        except (OSError, ValueError) as error:  # pyarrow's errors are these two
            raise DataError(f"{name}.parquet cannot be read", where=str(dataset), got=type(error).__name__) from None
    return data


CHECKS: dict[str, Callable[[Data], Finding]] = {
    f.__name__: f
    for f in (
        private_columns, private_text, counts, same_spec, one_origin, splits_filled, folds_filled, labels_present, labels_fit,
        classes_trained, classes_judged, class_shares,
        groups_apart, patients_apart, copies_across, copies_within, contradictions, near_copies, devices_large, devices_known, makers_known,
        device_classes, device_splits, class_devices, device_association, dates, not_blank, mostly_not_blank, bytes_match, values_in_range, set_aside,
        siblings_across,
    )
}  # fmt: skip
