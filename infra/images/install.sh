#!/bin/sh
# Runs inside a build: install.sh FILE. Installs the file's requirements into /opt/venv, at the versions and hashes of requirements.lock,
# compiled; leaves neither tool nor cache in the layer. executor.txt is installed without its dependencies.
set -eu
PATH=${PATH#/opt/venv/bin:}  # the tools run on the base's Python, which has pip
tools=$(mktemp -d)
python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action=ignore --target "$tools" "uv==$UV_VERSION"
[ -d /opt/venv ] || python3 -m venv --without-pip /opt/venv
for file in "$@"; do
    [ "$file" = executor.txt ] && alone=--no-deps || alone=
    "$tools/bin/uv" pip install --quiet --no-cache --python /opt/venv/bin/python --compile-bytecode --only-binary :all: --constraint requirements.lock $alone -r "$file"
done
rm -rf "$tools"
