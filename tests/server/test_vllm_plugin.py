"""The entry point for vLLM; no vLLM is needed."""

from __future__ import annotations

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[2]


def test_vllm_finds_the_plugin_by_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "server" / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["vllm.general_plugins"]["secondglance"]
    assert named == "secondglance_server.engine.vllm.plugin:register"
