"""What a cache key needs to know: digests of code, of a data source and of a deployment."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Literal

from components.core.errors import DataError
from components.core.home import home, tracking_uri
from components.core.package_data import ALLOWED, local_path

STEPS = ("ingest", "validate", "train", "evaluate", "register")
Graph = Literal["run", "run-unseen", "unseen", "compare"]
"""What `pipelines/assemble.py` can make of a disease: its run, the same with each device left out behind it, that alone, a comparison of families."""
SERVICE_ENVIRONMENT = (
    "DXFLOW_KEY", "DXFLOW_STORE", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DXFLOW_ONLINE_STORE", "DXFLOW_ONLINE_STORE_PASSWORD",
)  # fmt: skip
"""What a step in a container or a pod needs from outside; on a cluster it comes from the Secret `dxflow`."""
ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".py", ".toml", ".html", ".j2", ".css"}


def code_digest(step: str) -> str:
    """12 hexadecimal characters over every source file that the step (or "serving") can import: its own room, the feature store, the core.

    It is in the image tag, and the tag is in the IR, so a changed source file is never answered from the cache.
    """
    digest = hashlib.sha256()
    for room in ("components/core", "feature_store", *(("serving", "pipelines") if step == "serving" else (f"components/{step}",))):
        for path in sorted((ROOT / room).rglob("*")):
            relative = path.relative_to(ROOT).as_posix()
            if path.suffix in SUFFIXES and "/phantoms/" not in relative:
                digest.update(relative.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def image(step: str, *, prefix: str = "", tag: str | None = None) -> str:
    """The image of a step, e.g. `dxflow-train:0.1.0-1f2e3d4c5b6a`; on a cluster `prefix` is the registry and its folder."""
    return f"{prefix}dxflow-{step}:{tag or importlib.metadata.version('dxflow') + '-' + code_digest(step)}"


def source_digest(source: str) -> str:
    """Digest of a source's listing: relative path, size and time of change of each file, or the store's own checksums.

    Raises:
        DataError: There is no such source.
    """
    digest = hashlib.sha256()
    if source.startswith("s3://"):
        from components.core.storage import open_store

        for entry in sorted(open_store(source).list(""), key=lambda e: e.key):
            digest.update(f"{entry.key}\0{entry.size}\0{entry.fingerprint}\n".encode())
        return digest.hexdigest()[:32]
    root = local_path(source)
    if not root.exists():
        raise DataError("no such source", where="--source", got=source, allowed=ALLOWED)
    pending = [str(root)]
    lines: list[str] = []
    while pending:
        folder = pending.pop()
        if os.path.isfile(folder):
            facts = os.stat(folder)
            lines.append(f"\0{facts.st_size}\0{facts.st_mtime_ns}")
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    facts = entry.stat(follow_symlinks=False)
                    lines.append(f"{os.path.relpath(entry.path, root)}\0{facts.st_size}\0{facts.st_mtime_ns}")
    digest.update("\n".join(sorted(lines)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def deployment_digest() -> str:
    """Digest of the addresses that register writes to; addresses may hold credentials, so only their digest travels."""
    places = (tracking_uri(), os.environ.get("DXFLOW_STORE") or str(home() / "store"), str(home()))
    return hashlib.sha256("\0".join(places).encode()).hexdigest()[:16]
