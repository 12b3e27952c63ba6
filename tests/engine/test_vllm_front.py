"""The model as the vLLM engine's own process knows it, without weights and without vLLM."""

from __future__ import annotations

import pathlib
from dataclasses import replace

import pytest

from secondglance_server.engine.loader import EMBEDDED, load_engine
from secondglance_server.engine.protocol import ModelLoadError
from secondglance_server.engine.vllm.front import load_front
from secondglance_server.engine.vllm.options import VllmOptions
from tests.engine.conftest import load_family


def test_it_knows_of_the_model_what_the_prefix_engine_knows() -> None:
    """Gate, budgets, localisation and end tokens: the same edge, the same questions, the same regions."""
    front, engine = (
        load_front(VllmOptions(EMBEDDED, max_running=1), "cpu"),
        load_engine(EMBEDDED, device="cpu"),
    )
    assert replace(front.info, notes=()) == replace(engine.info, notes=())
    assert not [note for note in front.info.notes if "prefix cache" in note or "decode" in note]
    assert front.model_impl == "transformers", "vLLM's own classes do not know our tower"
    assert next(front.adapter.model.parameters()).device.type == "meta"


def test_a_family_that_was_not_tested_on_vllm_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    """Its prompts and boxes may be right on the prefix engine and wrong on vLLM."""
    load_family("gemma3", tmp_path)
    directory = next(path.parent for path in tmp_path.rglob("config.json"))
    with pytest.raises(ModelLoadError, match="'gemma3' was not tested on vLLM; tested: llava"):
        load_front(VllmOptions(str(directory), max_running=1), "cpu")


def test_the_served_name_is_the_one_that_shows() -> None:
    options = VllmOptions(EMBEDDED, max_running=1, served_name="shown")
    assert load_front(options, "cpu").info.name == "shown"
