#!/usr/bin/env bash
# Pins what the images install (*.lock) and what a clone is tested with (constraints.txt): the newest versions
# that pyproject.toml allows. Called by `make lock`; UV names the uv to use.
#
# torch is pinned by hand in torch.txt: its build (CPU or CUDA) is chosen by who installs it. The rest is
# resolved for Linux and Python 3.11; later Pythons and other systems can install the same versions.
set -euo pipefail
cd "$(dirname "$0")/.."
uv="${UV:-uv}"
compile() {
  "$uv" pip compile --quiet --no-cache --upgrade --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock' --no-emit-package torch \
    --constraint requirements/torch.txt --no-sources \
    ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} --no-emit-find-links \
    --no-emit-package second-glance --no-emit-package second-glance-protocol \
    --no-emit-package second-glance-server --no-emit-package second-glance-web "$@"
}
# Our own distributions come from this checkout, so the resolver gets them as wheels.
own="$(mktemp -d)"
trap 'rm -rf "$own"' EXIT
for folder in shared edge_web edge_client server evaluation; do
  cp -r "$folder" "$own/$folder" # built from a copy: setuptools leaves a build folder behind
  "$uv" build --quiet --wheel --out-dir "$own" "$own/$folder"
done
compile --find-links "$own" edge_client/pyproject.toml --extra gateway --generate-hashes \
  --output-file requirements/edge.lock
compile --find-links "$own" server/pyproject.toml --extra devices --extra otel --extra reader --extra redis \
  --generate-hashes --output-file requirements/server.lock
compile --find-links "$own" edge_client/pyproject.toml server/pyproject.toml evaluation/pyproject.toml \
  --all-extras --group pyproject.toml:dev --no-annotate --output-file requirements/constraints.txt
echo 'setuptools>=77' | "$uv" pip compile - --quiet --no-cache --python-version 3.11 --generate-hashes \
  --custom-compile-command 'make lock' --output-file requirements/build.lock
