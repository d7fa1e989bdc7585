#!/bin/bash
# `make test-containers`: builds every image, then runs lung-nodule at a reduced size in them, end to end, and as processes, and compares.
# Uses the container daemon that answers (DOCKER_HOST, or the usual socket), else starts Debian's dockerd for itself and stops it again.
# Its images stay in DXFLOW_DOCKER_ROOT (default /var/tmp/dxflow-docker, 15 GB), so that the next call builds changed layers only.
set -euo pipefail
cd "$(dirname "$0")/../.."
export BASE=${BASE:-python:3.11-slim}
scratch=$(mktemp -d /tmp/dxflow-containers.XXXXXX)
daemon=
stop() {
    [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null || true; }
    umount "$scratch"/exec/netns/* 2>/dev/null || true  # dockerd leaves the namespace of host networking mounted
    rm -rf "$scratch"
}
trap stop EXIT

if ! docker info >/dev/null 2>&1 || ! docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then
    command -v dockerd >/dev/null || { echo "no container daemon answers and dockerd is not installed" >&2; exit 2; }
    [ "$(id -u)" = 0 ] || { echo "no container daemon answers and only root can start one" >&2; exit 2; }
    root=${DXFLOW_DOCKER_ROOT:-/var/tmp/dxflow-docker}
    mkdir -p "$root"
    export DOCKER_HOST=unix://$scratch/docker.sock
    dockerd --host="$DOCKER_HOST" --data-root "$root" --exec-root "$scratch/exec" --pidfile "$scratch/pid" --storage-driver overlay2 \
        --iptables=false --ip6tables=false --bridge=none >"$scratch/dockerd.log" 2>&1 &
    daemon=$!
    for _ in $(seq 60); do
        docker version --format '{{.Server.Version}}' >/dev/null 2>&1 && break
        kill -0 "$daemon" 2>/dev/null || { tail -n 5 "$scratch/dockerd.log" >&2; exit 2; }
        sleep 0.5
    done
    echo "started dockerd; images are kept in $root"
fi
docker image inspect "$BASE" >/dev/null 2>&1 || timeout 60 docker pull --quiet "$BASE" 2>/dev/null || infra/images/make-base.sh "$BASE"

started=$SECONDS
infra/images/build.sh
echo "images built in $((SECONDS - started)) s"
.venv/bin/python -m infra.images.end_to_end "$scratch"
docker image prune --force >/dev/null
