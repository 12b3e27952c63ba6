"""A load that fails ends `serve` with exit code 2 and one line that says what to do, whatever is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from secondglance_server import serving
from secondglance_server.cli import cli
from secondglance_server.engine import placement
from secondglance_server.engine.adapters.llava import LlavaAdapter
from secondglance_server.engine.checkpoint import devices
from tests.engine.fake_hub import NAME, point_at, serving_hub
from tests.engine.tiny import llava

Failure = Callable[[Path, pytest.MonkeyPatch], tuple[str, ...]]


def config_changed(folder: Path, **changes: object) -> tuple[str, ...]:
    """Change the model's config.json, and return what `serve` is called with."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return ("--model", str(folder))


def missing_quantiser(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    return config_changed(folder, quantization_config={"quant_method": "compressed-tensors"})


def missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setattr(devices, "is_accelerate_available", lambda: False)
    return ("--model", str(folder), "--device-map", "auto")


def gated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    return ("--model", NAME)


def no_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    weights = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=weights - 1))
    return ("--model", NAME)


def too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setattr(placement, "free_bytes", lambda _: 1000)
    return ("--model", str(folder))


def no_chat_template(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setattr(LlavaAdapter, "default_chat_template", None)
    (folder / "chat_template.jinja").unlink()
    return ("--model", str(folder))


def no_vlm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    return config_changed(folder, model_type="bert")


def own_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    return config_changed(folder, model_type="mine", auto_map={"AutoConfig": "a.B"})


FAILURES: dict[Failure, str] = {
    missing_quantiser: "pip install compressed-tensors",
    missing_extra: "pip install 'second-glance-server[devices]'",
    gated: "accept its terms",
    no_space: "set HF_HOME to another disk",
    too_large: "take a smaller or a quantised model",
    no_chat_template: "put a chat_template.jinja",
    no_vlm: "it is no vision-language model",
    own_code: "take a port to transformers",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    llava.build(directory)
    return directory


@contextmanager
def hub_of(folder: Path, failure: Failure, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[None]:
    with serving_hub(folder) as hub:
        hub.refusal = (403, "GatedRepo") if failure is gated else None
        point_at(monkeypatch, hub.url, cache)
        yield


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_a_load_that_fails_ends_with_2_and_one_line(
    failure: Failure, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor starts again what ends with 1; none of these is mended by that."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    arguments = failure(folder, monkeypatch)
    for name in ("_end_by_force", "leave"):  # this process has other tests to run
        monkeypatch.setattr(serving, name, lambda **_: None)
    with hub_of(folder, failure, monkeypatch, tmp_path / "cache"):
        result = CliRunner().invoke(cli, ["serve", "--port", "0", "--device", "cpu", *arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"model {arguments[1]!r} cannot be loaded: ")
    assert FAILURES[failure] in last
