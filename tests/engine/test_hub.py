"""Models of a hub, over real HTTP to a fake one: fetched whole; every failure is a line that mends it."""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from secondglance_server.engine.checkpoint import hub as hub_module
from secondglance_server.engine.checkpoint import refusals
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.protocol import ModelLoadError
from tests.engine.fake_hub import NAME, SHA, Hub, point_at, serving_hub
from tests.engine.tiny import llava


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    llava.build(directory)
    return directory


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub(model) as running:
        point_at(monkeypatch, running.url, tmp_path / "cache")
        yield running


def refused(name: str = NAME, **options: Any) -> ModelLoadError:
    """Return the one-line refusal."""
    with pytest.raises(ModelLoadError) as caught:
        load_engine(name, device="cpu", **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"model {name!r} cannot be loaded: ")
    return caught.value


def test_a_model_is_fetched_once_with_its_progress_in_the_log(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "secondglance_server.engine")
    assert load_engine(NAME, device="cpu").info.name == NAME
    said = {
        name: [r.percent for r in caplog.records if r.message == name]
        for name in ("model downloading", "model loading")
    }  # type: ignore[attr-defined]
    for name, percents in said.items():
        assert percents == sorted(set(percents)), name
        assert percents[-1] == 100, name
    fetched = [line for line in hub.asked if line.startswith("GET") and line.endswith(".safetensors")]
    assert len(fetched) == 1
    load_engine(NAME, device="cpu", revision="main")
    assert [line for line in hub.asked if line.startswith("GET") and line.endswith(".safetensors")] == fetched


def test_without_a_network_the_cache_will_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load_engine(NAME, device="cpu")
    asked = len(hub.asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_engine(NAME, device="cpu").info.name == NAME
    assert len(hub.asked) == asked


def test_a_token_of_the_environment_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    load_engine(NAME, device="cpu")
    assert hub.tokens == {"Bearer hf_test"}


def test_a_revision_is_the_one_that_is_asked_for(hub: Hub) -> None:
    load_engine(NAME, device="cpu", revision=SHA)
    assert any(f"/tree/{SHA}" in line for line in hub.asked)
    failure = refused(revision="v9")
    assert "no such revision" in str(failure)
    assert not failure.may_pass


@pytest.mark.parametrize(
    ("refusal", "words", "may_pass"),
    [
        ((403, "GatedRepo"), "it is gated: accept its terms .* set HF_TOKEN", False),
        ((401, "GatedRepo"), "it is gated: accept its terms .* set HF_TOKEN", False),
        ((404, "RepoNotFound"), "does not exist, or it is private: check the name, or set HF_TOKEN", False),
        ((401, "RepoNotFound"), "does not exist, or it is private: check the name, or set HF_TOKEN", False),
        ((403, "Other"), r"refuses HF_TOKEN \(403\)", False),
        ((503, "Down"), "answers 503: start again later", True),
        ((429, "TooMany"), "answers 429: start again later", True),
    ],
)
def test_what_the_hub_refuses_names_the_remedy(
    hub: Hub, refusal: tuple[int, str], words: str, may_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's own tries
    hub.refusal = refusal
    failure = refused()
    assert re.search(words, str(failure))
    assert failure.may_pass is may_pass


def test_a_hub_that_cannot_be_reached_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path)
    failure = refused()
    assert "cannot be reached" in str(failure)
    assert failure.may_pass


def test_offline_and_not_in_the_cache_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path, offline=True)
    failure = refused()
    assert "HF_HUB_OFFLINE is set" in str(failure)
    assert not failure.may_pass


def test_a_download_that_is_cut_off_goes_on(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself for some times; after that the next start goes on, so it is no mistake of the operator's."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.cut_at, hub.cuts = 1000, 1
    assert load_engine(NAME, device="cpu").info.name == NAME


def test_a_download_that_is_always_cut_off_may_pass(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.cut_at, hub.cuts = 0, 1000
    failure = refused()
    assert failure.may_pass
    hub.cuts = 0
    assert load_engine(NAME, device="cpu").info.name == NAME


def test_a_full_disk_is_seen_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = (hub.directory / "model.safetensors").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=weights - 1))
    failure = refused()
    assert re.search("does not fit the disk of .* set HF_HOME to another disk", str(failure))
    assert not any(line.endswith(".safetensors") for line in hub.asked if line.startswith("GET"))


def test_a_disk_that_fills_meanwhile_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module, "snapshot_download", full)
    assert "no space is left" in str(refused())


def test_a_model_that_is_too_large_is_refused_before_the_download(hub: Hub) -> None:
    hub.claimed_bytes = 10**15
    failure = refused()
    assert re.search(
        r"weights take 1000000\.0 GB as float32, .* of memory free: take a smaller", str(failure)
    )
    assert not any(line.endswith(".safetensors") for line in hub.asked if line.startswith("GET"))


def test_a_kind_that_cannot_be_served_is_refused_before_the_download(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in model.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with serving_hub(tmp_path) as running:
        point_at(monkeypatch, running.url, tmp_path / "cache")
        assert "no vision-language model" in str(refused())
        assert not any(line.endswith(".safetensors") for line in running.asked)


def test_a_repository_without_safetensors_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with serving_hub(tmp_path) as running:
        point_at(monkeypatch, running.url, tmp_path / "cache")
        assert "safetensors" in str(refused())


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "~/models/x", "a b", "owner/name/more"])
def test_a_name_that_no_hub_has_is_not_looked_up(name: str, hub: Hub) -> None:
    with pytest.raises(ModelLoadError, match="directory"):
        load_engine(name, device="cpu")
    assert hub.asked == []


def test_a_directory_has_no_revision(model: Path) -> None:
    assert "has no revision 'main'" in str(refused(str(model), revision="main"))


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (ImportError("AWQ needs gptqmodel: `pip install gptqmodel`"), "pip install gptqmodel "),
        (ModuleNotFoundError("No module", name="sentencepiece"), "pip install sentencepiece"),
        (PermissionError(errno.EACCES, "Permission denied", "/m"), "/m: Permission denied; set HF_HOME"),
        (OSError(errno.EROFS, "Read-only file system", "/m"), "set HF_HOME"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space is left"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
    ],
)
def test_what_the_system_refuses_names_the_remedy(exc: Exception, words: str) -> None:
    explained = refusals.refusal("x", exc)
    assert explained is not None
    assert words in str(explained)
    assert not explained.may_pass


def test_a_fault_of_ours_is_not_explained_away() -> None:
    assert refusals.refusal("x", TypeError("unexpected keyword")) is None
    assert refusals.refusal("x", AttributeError("none")) is None
