"""What a cache key needs to know: digests of code, of a data source and of a deployment."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Literal

from components.core import code
from components.core.home import home, tracking_uri

STEPS = ("ingest", "validate", "train", "evaluate", "register")
Graph = Literal["run", "run-unseen", "unseen", "compare"]
"""What `pipelines/assemble.py` can make of a disease: its run, the same with each device left out behind it, that alone, a comparison of families."""
SERVICE_ENVIRONMENT = (
    "DXFLOW_KEY", "DXFLOW_STORE", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DXFLOW_ONLINE_STORE", "DXFLOW_ONLINE_STORE_PASSWORD",
)  # fmt: skip
"""What a step in a container or a pod needs from outside; on a cluster it comes from the Secret `dxflow`."""
ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "serving": ("components", "feature_store", "pipelines", "serving"),  # its image runs the command, which can import every step
    "monitor": ("components/core", "components/monitor", "feature_store"),
} | {step: ("components/core", f"components/{step}", "feature_store") for step in STEPS}
"""Folders whose files a step's image holds and its process can import or open; tests hold them against the imports."""
RECIPE = ("requirements.lock", "infra/images/Dockerfile", "infra/images/install.sh", "infra/images/requirements_of.py", "infra/images/wheel.sh")
"""What else is in an image: the installed packages follow from it. Not there where the package is installed without its checkout."""


def code_digest(step: str) -> str:
    """12 hexadecimal characters over every file that the step (or "serving") can import or open, and over what its image is built from.

    It is in the image tag, and the tag is in the IR, so a changed source file is never answered from the cache.
    """
    return code.digest(ROOT, ROOMS[step], files=RECIPE)[:12]


def image(step: str, *, prefix: str = "", tag: str | None = None) -> str:
    """The image of a step, e.g. `dxflow-train:0.1.0-1f2e3d4c5b6a`; on a cluster `prefix` is the registry and its folder."""
    return f"{prefix}dxflow-{step}:{tag or importlib.metadata.version('dxflow') + '-' + code_digest(step)}"


def source_digest(source: str) -> str:
    """Digest of a source's listing as ingest makes it: of every file that would be opened its path in the source, size, times of change, device
    and inode, or the store's own checksum. Of a link these are its target's.

    Raises:
        DataError: There is no such source, or no file in it.
    """
    from components.ingest.source import open_source

    return open_source(source).fingerprint[:32]


def deployment_digest() -> str:
    """Digest of the addresses that register writes to; addresses may hold credentials, so only their digest travels."""
    places = (tracking_uri(), os.environ.get("DXFLOW_STORE") or str(home() / "store"), str(home()))
    return hashlib.sha256("\0".join(places).encode()).hexdigest()[:16]
