"""One model over several devices: answers as on one, and everything but decoder layers stays on the main one.

A CPU and a disk are the several devices that every machine has.
"""

from __future__ import annotations

import gc
import importlib
import json
import pathlib
import tempfile
from typing import Any

import pytest
import torch

from secondglance_server.engine import loader
from secondglance_server.engine.checkpoint import devices
from secondglance_server.engine.checkpoint.devices import parse_device_map, with_one_main_device
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.placement import Placement, needs_several, place
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, ModelLoadError, Picture
from tests.engine.tiny import llava
from tests.engine.tiny.parts import picture
from tests.needs import needs_module

SIDE = 56
GLOBAL = Picture("global", picture(SIDE, SIDE))
REQUESTS = (
    AnswerRequest(GLOBAL, "What is it?", max_new_tokens=5),
    AnswerRequest(GLOBAL, "What is it?", patch=Picture("patch", picture(SIDE, SIDE, 1)), max_new_tokens=5),
)


def built(name: str, directory: pathlib.Path) -> str:
    torch.manual_seed(0)
    importlib.import_module(f"tests.engine.tiny.{name}").build(directory)
    return str(directory)


def loaded(source: str, **options: Any) -> PrefixEngine:
    engine = load_engine(source, device="cpu", dtype="float32", **options)
    assert isinstance(engine, PrefixEngine)
    return engine


@needs_module("accelerate", package="accelerate")
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "gemma3"])
@pytest.mark.parametrize("kind", ["auto", "sequential", "disk"])
def test_a_model_over_several_devices_answers_as_on_one(name: str, kind: str, tmp_path: pathlib.Path) -> None:
    source = built(name, tmp_path)
    plain = loaded(source)
    device_map = kind
    if kind == "disk":
        model = plain.adapter.model
        places = with_one_main_device({"": "cpu"}, model)
        last = max(places, key=lambda part: (part.rpartition(".")[2].isdigit(), part))
        device_map = json.dumps(places | {last: "disk"})
    spread = loaded(source, device_map=device_map)
    assert any(note.startswith("device_map over cpu") for note in spread.info.notes)
    for got, expected in zip(spread.answer(REQUESTS), plain.answer(REQUESTS), strict=True):
        assert isinstance(got, AnswerResult)
        assert isinstance(expected, AnswerResult)
        assert got.text == expected.text
        for one, other in zip(got.tokens, expected.tokens, strict=True):
            assert one.shannon == pytest.approx(other.shannon, abs=1e-4)
    spread.close()


@needs_module("accelerate", package="accelerate")
@pytest.mark.parametrize("fails", [False, True], ids=["served", "fails"])
def test_weights_that_stay_on_disk_go_with_their_model(
    *, fails: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mixture of experts is written anew, as large as it is: each start would leave a copy behind."""
    source = built("llava", tmp_path / "model")
    places = with_one_main_device({"": "cpu"}, loaded(source).adapter.model)
    device_map = json.dumps(places | {max(p for p in places if p[-1].isdigit()): "disk"})
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if fails:
        monkeypatch.setattr(loader, "_refuse_gaps", no_memory)
        with pytest.raises(ModelLoadError, match="not enough memory"):
            loaded(source, device_map=device_map)
    else:
        spread = loaded(source, device_map=device_map)
        assert len(list(folder.iterdir())) == 1
        spread.close()
        del spread
    gc.collect()
    assert not list(folder.iterdir())


def no_memory(report: object) -> None:
    raise MemoryError(report)


def test_without_accelerate_the_line_says_what_to_install(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "is_accelerate_available", lambda: False)
    with pytest.raises(ModelLoadError, match=r"pip install 'second-glance-server\[devices\]'"):
        loaded(built("llava", tmp_path), device_map="auto")


@pytest.mark.parametrize("text", ["everywhere", "[0, 1]", "{", '{"": null}', "3"])
def test_a_map_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ModelLoadError, match="one of auto, balanced"):
        parse_device_map(text)


@pytest.mark.parametrize(
    ("found", "main", "second"),
    [
        ({"": 0}, 0, 0),
        ({"": "cpu"}, "cpu", "cpu"),
        ({"model.vision_tower": 1, "model.language_model": 0, "lm_head": 1}, 0, 0),
        ({"model": 0, "model.language_model.layers.1": 1, "lm_head": "disk"}, 0, 1),
        ({"model": "cpu", "lm_head": 1}, 1, "cpu"),
        ({"model": "disk", "lm_head": "disk"}, "cpu", "disk"),
    ],
)
def test_all_but_decoder_layers_stay_on_the_main_device(
    found: dict[str, Any], main: object, second: object, tmp_path: pathlib.Path
) -> None:
    """What the engine computes itself (features, positions, masks, logits) is in one place."""
    model = llava.build(tmp_path).model
    result = with_one_main_device(found, model)
    layers = {name: device for name, device in result.items() if ".layers." in name and "vision" not in name}
    assert len(layers) == 2
    assert layers["model.language_model.layers.1"] == second
    assert {device for name, device in result.items() if name not in layers} == {main}
    for name, _ in model.named_parameters():
        assert any(f"{name}.".startswith(f"{entry}.") for entry in result), name


@pytest.mark.parametrize(("cards", "free", "several"), [(2, 10, True), (1, 10, False), (2, 1000, False)])
def test_several_cards_are_taken_where_one_is_too_small(
    cards: int, free: int, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 1000))
    card = Placement(torch.device("cuda"), torch.float16, "sdpa", False, ())
    assert needs_several(100, card) is several
    assert not needs_several(1 << 60, place("cpu", "auto", "auto"))
