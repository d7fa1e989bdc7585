#!/bin/sh
# Runs inside a build, in a copy of the repository. Builds the wheel with the locked hatchling and unpacks it into /app, compiled.
set -eu
PATH=${PATH#/opt/venv/bin:}  # the tools run on the base's Python, which has pip
tools=$(mktemp -d)
python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action=ignore --target "$tools" "uv==$UV_VERSION"
"$tools/bin/uv" pip install --quiet --no-cache --target "$tools/hatch" --only-binary :all: --constraint requirements.lock hatchling
PYTHONPATH="$tools/hatch" python3 -m hatchling build --target wheel --directory "$tools/dist"
"$tools/bin/uv" pip install --quiet --no-cache --no-deps --target /app --compile-bytecode "$tools"/dist/*.whl
rm -rf "$tools"
