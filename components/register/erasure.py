"""Taking a patient's rows out of registered model packages: a new package under its own digest, and the old one's bytes gone.

The order makes a kill harmless: the new package is whole in the store before the registry points to it, and the old one goes last. Whoever asks for
the old digest is told so by `replaces` in `registration.json`: answers that the old package gave are still this model's own.

Weights cannot be taken back: a model that was fitted on the patient stays fitted on the patient. That is flagged, not mended.
"""

from __future__ import annotations

import io
import json
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import package as packages
from components.core import registration, registry
from components.core.atomic import atomic_dir
from components.core.erasure import Ids, holds, read, rows_of
from components.core.errors import DataError
from components.core.package import BESIDE, SIMULATED, ModelPackage
from components.core.storage import MANIFEST, Store

REGISTRATION = "registration.json"
TEXTS = (REGISTRATION, "inference-service.yaml")


@dataclass(frozen=True)
class Erased:
    """One package that lost rows.

    Args:
        versions: Of the registry, `name:version`; none for a package that the registry does not know.
        rows: File name -> rows that went.
    """

    model: str
    versions: list[str]
    rows: dict[str, int]
    old: str
    new: str
    uri: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def changes(package: ModelPackage, ids: Ids) -> tuple[dict[str, bytes], dict[str, int]]:
    """What the package's tables become, and how many rows go; both empty where the patient is not in it.

    Raises:
        DataError: An id stands in a file that is no table: nothing is changed, since nobody would know what to change.
    """
    import pyarrow.parquet as pq

    files: dict[str, bytes] = {}
    rows: dict[str, int] = {}
    gone: Any = None
    for name in sorted(package.info["files"]):
        path = package.folder / name
        if not name.endswith(".parquet"):
            _free(path, ids, package)
            continue
        table = read(path)
        mask = rows_of(table, ids.all)
        if name == SIMULATED:
            continue
        if mask.any():
            rows[name], gone = int(mask.sum()), table.filter(mask)
            files[name] = _parquet(pq, table.filter(~mask))
    if gone is not None and SIMULATED in package.info["files"]:
        table = read(package.folder / SIMULATED)
        mask = simulated_rows(table, gone)
        if mask.any():
            rows[SIMULATED] = int(mask.sum())
            files[SIMULATED] = _parquet(pq, table.filter(~mask))
    return files, rows


def simulated_rows(table: Any, gone: Any) -> NDArray[np.bool_]:
    """(n,) rows of `simulated.parquet` made of these rows of the reference. It names no samples, but its unchanged part has the same figures as
    the reference, and every other part has the same samples in the same order."""
    own = table.to_pandas()
    figures = [name for name in own.columns if name in gone.column_names and name not in ("cause", "strength")]
    size = int((own["cause"] == "").sum())
    if not figures or not size or len(own) % size:
        return np.ones(len(own), bool)  # of another kind: rather none than somebody's
    wanted = gone.select(figures).to_pandas().to_numpy(np.float64)
    first = own[own["cause"] == ""][figures].to_numpy(np.float64)
    hit = np.array([np.isclose(wanted, row, rtol=1e-6, atol=0, equal_nan=True).all(1).any() for row in first])
    return np.tile(hit, len(own) // size)


def rewrite_folder(folder: Path, ids: Ids, *, dry: bool = False) -> tuple[dict[str, int], str, str]:
    """A package folder on this machine, written anew in its place with what stands beside it. Returns rows by file, old and new digest."""
    old = ModelPackage.open(folder, allow_synthetic=True)
    files, rows = changes(old, ids)
    if not rows or dry:
        return rows, old.digest, old.digest
    with atomic_dir(folder) as partial:
        new = _written(partial / "package", old, files)
        for file in sorted(new.folder.iterdir()):
            file.rename(partial / file.name)
        new.folder.rmdir()
        for name in BESIDE:
            if (beside := folder / name).exists() and name != MANIFEST:
                (partial / name).write_text(_renamed(name, beside.read_text(encoding="utf-8"), old.digest, new.digest), encoding="utf-8")
    return rows, old.digest, new.digest


def erase_from_store(store: Store, registered: Sequence[registry.Version], ids: Ids, *, dry: bool, scratch: Path) -> Iterator[Erased]:
    """Every package of a store that holds the patient, registered or not.

    Args:
        registered: All versions of the registry.
        scratch: Where packages are fetched to; a folder of it exists only while a package is looked at.
    """
    known: dict[str, list[registry.Version]] = {}
    for version in registered:
        known.setdefault(version.uri, []).append(version)
    for key in package_keys(store):
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as temporary:
            folder = Path(temporary) / "old"
            store.get_folder(key, folder)
            old = ModelPackage.open(folder, allow_synthetic=True)
            files, rows = changes(old, ids)
            uri = next((u for u in known if _is(store, u, key)), store._uri(key))
            named = [f"{v.name}:{v.version}" for v in known.get(uri, [])]
            if not rows:
                _point(store, key, old.digest, known.get(uri, []), dry)  # the end of what a kill cut off
                continue
            if dry:
                yield Erased(old.name, named, rows, old.digest, "", uri)
                continue
            new = _written(Path(temporary) / "new", old, files)
            target = f"{key.rpartition('/')[0]}/{new.digest}"
            moved = store.put_folder(new.folder, target)
            for name in TEXTS:
                if store.exists(f"{key}/{name}"):
                    store.get_file(f"{key}/{name}", Path(temporary) / name)
                    text = _renamed(name, (Path(temporary) / name).read_text(encoding="utf-8"), old.digest, new.digest)
                    (Path(temporary) / name).write_text(text, encoding="utf-8")
                    store.put_file(Path(temporary) / name, f"{target}/{name}")
            for version in known.get(uri, []):
                registry.replace(version.name, version.version, uri=moved, digest=new.digest)
            store.delete(key)
            yield Erased(old.name, named, rows, old.digest, new.digest, moved)


def drop_incomplete(store: Store, ids: Ids, *, dry: bool) -> list[str]:
    """Remove what a killed upload or removal left of packages with the patient, which no reader sees; returns the keys."""
    import pyarrow as pa

    whole, gone = set(package_keys(store)), set[str]()
    for entry in list(store.list("models/")):
        folder = entry.key.rpartition("/")[0]
        if folder in whole | gone or not entry.key.endswith(".parquet"):
            continue
        with store.open_read(entry.key, foreign=True) as handle:
            try:
                held = rows_of(read(handle), ids.all).any()
            except (DataError, pa.ArrowException):
                held = True  # a torn table of a package that nobody can open
        if held:
            gone.add(folder)
            if not dry:
                store.delete(folder)
    return sorted(gone)


def package_keys(store: Store) -> list[str]:
    """Keys of all packages of a store, sorted."""
    return sorted(_folder(e.key) for e in store.list("models/") if e.key.endswith(f"/{MANIFEST}"))


def _folder(key: str) -> str:
    return key.removesuffix(f"/{MANIFEST}")


def _point(store: Store, key: str, digest: str, versions: list[registry.Version], dry: bool) -> None:
    for version in versions:
        if version.digest != digest and not dry:
            registry.replace(version.name, version.version, uri=version.uri, digest=digest)


def _is(store: Store, uri: str, key: str) -> bool:
    return uri.startswith(f"{store.uri}/") and store.key_of(uri) == key


def _written(folder: Path, old: ModelPackage, files: dict[str, bytes]) -> ModelPackage:
    info = old.info
    content: dict[str, Path | bytes] = {name: files[name] if name in files else old.folder / name for name in info["files"]}
    new = packages.write(
        folder, content, disease=info["disease"], family=info["family"], synthetic=info["synthetic"], verdict=info["verdict"], reasons=info["reasons"]
    )
    return ModelPackage.open(new.folder, allow_synthetic=True)


def _renamed(name: str, text: str, old: str, new: str) -> str:
    text = text.replace(old, new)
    if name != REGISTRATION:
        return text
    record = json.loads(text)
    record["replaces"] = [*record.get("replaces", []), old]
    return registration.text(record)


def _parquet(pq: Any, table: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def _free(path: Path, ids: Ids, package: ModelPackage) -> None:
    if path.stat().st_size == 0:
        return
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if holds(data, ids):
            raise DataError("names the patient and is no table; train and register it anew, then erase", where=f"{package.name}/{path.name}")
