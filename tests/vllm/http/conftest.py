"""Servers in vLLM's environment, asked by the usual edge."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

import pytest

from benchmarks.instruments.processes import ServerProcess, server_process
from secondglance_server.testing import serving


def vllm_serving(
    log: pathlib.Path,
    module: str = "secondglance_server.cli",
    environment: Mapping[str, str] | None = None,
) -> AbstractContextManager[ServerProcess]:
    """A ready server on vLLM."""
    python = os.environ["SECONDGLANCE_VLLM_PYTHON"]
    patient = {"SECONDGLANCE_SERVER_INFERENCE_DEADLINE_S": "300"}  # two busy cores are slow
    environment = patient | dict(environment or {})
    return server_process(python, log, "--engine", "vllm", module=module, environment=environment)


@pytest.fixture(scope="session")
def on_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with vllm_serving(tmp_path_factory.mktemp("vllm") / "server.log") as server:
        yield server


@pytest.fixture(scope="session")
def on_prefix() -> Iterator[str]:
    with serving() as url:
        yield url
