#!/bin/sh
# Makes a base image out of Debian packages, for machines that reach no image registry: make-base.sh NAME
# Carries this machine's CA bundle, apt's sources and pip's settings, so that builds reach what this machine reaches.
# Needs root, mmdebstrap and a docker daemon. Takes about two minutes; does nothing when NAME exists.
set -eu
name=$1
docker image inspect "$name" >/dev/null 2>&1 && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! docker image inspect dxflow-debian:bookworm >/dev/null 2>&1; then
    mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
        --include=python3.11,python3-pip,python3-venv,python-is-python3,ca-certificates bookworm "$work/root.tar"
    docker import "$work/root.tar" dxflow-debian:bookworm >/dev/null
fi
cp /etc/ssl/certs/ca-certificates.crt "$work/ca-certificates.crt"
setting() { python3 -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\(.*\)'$/\1/p" | head -n 1; }
index=$(setting index-url)
{ echo "[global]"; [ -z "$index" ] || echo "index-url = $index"; } >"$work/pip.conf"
{ [ -z "$index" ] || echo "index-url = \"$index\""; } >"$work/uv.toml"
cat >"$work/Dockerfile" <<'LAYER'
FROM dxflow-debian:bookworm
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY pip.conf /etc/pip.conf
COPY uv.toml /etc/uv/uv.toml
ENV LANG=C.UTF-8 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
LAYER
docker build --quiet --network=host --tag "$name" "$work" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
