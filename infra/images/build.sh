#!/bin/sh
# Builds the step images: build.sh [--push] [PREFIX] [STEP...]
#     build.sh                                 all of them for this machine, dxflow-<step>:<tag>
#     build.sh --push registry.example/team/   all of them, pushed; then: dxflow compile DISEASE --images registry.example/team/
# BASE names the base image. The tag is the version and a digest of the step's sources, the one that the compiled pipeline names.
set -eu
cd "$(dirname "$0")/../.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
push=false
[ "${1:-}" != --push ] || { push=true; shift; }
prefix=${1:-}
[ $# -eq 0 ] || shift
for step in ${*:-ingest validate train evaluate register monitor serving}; do
    image=$(.venv/bin/python -c "import sys; from pipelines.sources import image; print(image(sys.argv[1], prefix=sys.argv[2]))" "$step" "$prefix")
    docker build --network=host --build-arg "BASE=${BASE:-python:3.11-slim}" -f infra/images/Dockerfile --target "$step" --tag "$image" . >"$log" 2>&1 ||
        { tail -n 40 "$log" >&2; exit 1; }
    echo "$image  $(docker image inspect --format '{{.Size}}' "$image" | awk '{printf "%.2f GB", $1 / 1e9}')"
    ! $push || docker push --quiet "$image"
done
