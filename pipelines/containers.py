"""kfp's DockerRunner, with what it leaves to the caller: the source, an ordinary user, and an end for containers whose run was stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from components.core.errors import DataError, ServiceError

LABEL = "dxflow.run"
USER = 1000  # of the images; taken when the run's own user is root


def runner(run: Path, request: dict[str, Any]) -> Any:
    """The runner of one run. The source is mounted read-only at its own path; kfp mounts the pipeline root."""
    from docker.types import Mount
    from kfp import local

    source, root = request["arguments"]["source"], Path(request["pipeline_root"])
    root.mkdir(parents=True, exist_ok=True)
    user, group = os.getuid(), os.getgid()
    if user == 0:
        user = group = USER
        for folder in (root, *root.iterdir()):
            os.chown(folder, user, group)
    return local.DockerRunner(
        # The values come through the environment, not the request file: one of them is the pseudonym key.
        environment={name: os.environ[f"DXFLOW_CONTAINER_{name}"] for name in request["environment"]},
        mounts=[Mount(target=place, source=place, type="bind", read_only=True) for place in places(source)],
        network_mode="host",
        user=f"{user}:{group}",
        labels={LABEL: run.name},
    )


def places(source: str) -> list[str]:
    """What is mounted for a source, each at its own path: nothing for addresses and for files of installed packages, which are in the images.

    Where the source is called by a link, its links may name its own place too.
    """
    return list(dict.fromkeys((source, os.path.realpath(source)))) if os.path.isabs(source) else []


def mountable(source: str) -> None:
    """Raises DataError for a source with links that lead out of it: they would lead nowhere within a container."""
    from components.ingest.source import open_source

    if places(source) and (n := open_source(source).links.leaving):
        allowed = "a source without such links, or --runner subprocess"
        raise DataError("links of the source lead out of it, where no container can follow", where="--source", got=f"{n} links", allowed=allowed)


def check() -> None:
    """Raises ServiceError when no container daemon answers."""
    import docker
    from docker.errors import DockerException

    try:
        docker.from_env(timeout=10).close()
    except (DockerException, OSError):
        raise ServiceError(
            "no container daemon answers", where="DOCKER_HOST", got=os.environ.get("DOCKER_HOST"), allowed="a running dockerd"
        ) from None


def stop(run: str) -> None:
    """Remove the containers that a run left: they are not in its process group, so no signal reaches them."""
    import docker
    from docker.errors import APIError, DockerException

    try:
        client = docker.from_env(timeout=20)
    except (DockerException, OSError):  # the daemon is gone, and its containers with it
        return
    try:
        for container in client.containers.list(all=True, filters={"label": f"{LABEL}={run}"}):
            try:
                container.remove(force=True)
            except APIError:  # it went by itself in this moment
                continue
    finally:
        client.close()
