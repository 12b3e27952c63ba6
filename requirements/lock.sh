#!/usr/bin/env bash
# Pins what the images install (*.lock) and what a clone is tested with (constraints.txt): the newest versions
# that pyproject.toml allows. Called by `make lock`; UV names the uv to use.
#
# torch stays out: its build (CPU or CUDA) is chosen by who installs it, its version by pyproject.toml. The
# rest is resolved for Linux and Python 3.11; later Pythons and other systems can install the same versions.
set -euo pipefail
cd "$(dirname "$0")/.."
uv="${UV:-uv}"
compile() {
  "$uv" pip compile pyproject.toml --quiet --no-cache --upgrade --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock' --no-emit-package torch \
    ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} --no-emit-find-links "$@"
}
compile --extra edge --extra gateway --generate-hashes --output-file requirements/edge.lock
compile --extra server --extra otel --generate-hashes --output-file requirements/server.lock
compile --all-extras --no-annotate --output-file requirements/constraints.txt
echo 'setuptools>=77' | "$uv" pip compile - --quiet --no-cache --python-version 3.11 --generate-hashes \
  --custom-compile-command 'make lock' --output-file requirements/build.lock
