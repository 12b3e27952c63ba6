"""Records of different models or datasets are never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondglance_eval.datasets.held_out import HeldOutScenes
from secondglance_eval.errors import OtherRunError
from secondglance_eval.facts import Facts, files_of_model
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.inference.replies import model_response
from secondglance_server.settings import ServerSettings


def facts(scenes: int = 3, first_seed: int = 200_000, model_files: Path | None = None) -> Facts:
    model = model_response(FakeEngine().info, ServerSettings())
    return Facts.gather(HeldOutScenes(scenes, first_seed), model, model_files=model_files)


def test_a_longer_run_of_the_same_goes_on(tmp_path: Path) -> None:
    facts(3).keep_in(tmp_path)
    facts(5).keep_in(tmp_path)
    assert Facts.read(tmp_path).pictures == 5


def test_another_dataset_is_refused(tmp_path: Path) -> None:
    facts().keep_in(tmp_path)
    with pytest.raises(OtherRunError, match="another dataset"):
        facts(first_seed=1).keep_in(tmp_path)


def test_other_weights_of_the_same_name_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"one")
    facts(model_files=weights).keep_in(tmp_path)
    facts(model_files=weights).keep_in(tmp_path)
    (weights / "model.safetensors").write_bytes(b"two")
    with pytest.raises(OtherRunError, match="another weights"):
        facts(model_files=weights).keep_in(tmp_path)


def test_the_embedded_model_has_files() -> None:
    files = files_of_model("embedded")
    assert files is not None
    assert (files / "model.safetensors").is_file()
    assert files_of_model("llava-hf/llava-1.5-7b-hf") is None
