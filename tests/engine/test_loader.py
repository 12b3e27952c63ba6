"""Loading: what is refused and why, what was chosen and why, and what the process looks like afterwards."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import PIL.Image
import pytest
import torch
from transformers.utils.logging import is_progress_bar_enabled

from secondglance_protocol.wire import EncodingRecipe, Recipes
from secondglance_server.engine.adapters.llava import LlavaAdapter
from secondglance_server.engine.loader import ModelLoadError, load_engine
from secondglance_server.engine.model_defaults import read_model_defaults
from secondglance_server.engine.placement import place
from secondglance_server.engine.prefix import PrefixEngine
from tests.engine.tiny import llava


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    llava.build(directory)
    return directory


def test_every_automatic_choice_comes_with_its_reason(model: pathlib.Path) -> None:
    info = load_engine(str(model)).info
    notes = "\n".join(info.notes)
    for word in ("device", "dtype", "attention sdpa", "decode recorded", "prefix cache", "layer"):
        assert word in notes
    assert info.name == str(model)
    assert (info.image.max_width, info.image.max_height) == (llava.SIDE, llava.SIDE)


def test_a_calibration_beside_the_weights_wins(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    calibration = {
        "gate": {"threshold": 0.125},
        "localization": {"layers": [0], "origin": "measured"},
        "recipes": {"patch": {"format": "webp", "quality": 50, "scale": 0.7}},
    }
    (tmp_path / "secondglance.json").write_text(json.dumps(calibration), encoding="utf-8")
    engine = load_engine(str(tmp_path), device="cpu")
    assert isinstance(engine, PrefixEngine)
    assert engine.info.gate.threshold == 0.125
    assert engine.info.localization.origin == "measured"
    assert engine.layers == (0,)
    assert engine.info.recipes == Recipes(patch=EncodingRecipe(format="webp", quality=50, scale=0.7))


@pytest.mark.parametrize(
    "recipe",
    [
        {"format": "webp", "quality": 0},
        {"format": "avif", "quality": 50},
        {"format": "webp", "quality": 50, "scale": 2},
        {"format": "webp", "quality": 50, "side": 160},
        {"quality": 50},
    ],
)
def test_a_recipe_that_makes_no_sense_stops_the_start(tmp_path: pathlib.Path, recipe: dict[str, Any]) -> None:
    (tmp_path / "secondglance.json").write_text(json.dumps({"recipes": {"patch": recipe}}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"secondglance\.json"):
        read_model_defaults(tmp_path)


@pytest.mark.parametrize(
    "setting", [{"repetition_penalty": 1.05}, {"no_repeat_ngram_size": 3}, {"suppress_tokens": [7]}]
)
def test_m7_a_logits_processor_that_is_not_applied_is_said(
    model: pathlib.Path, tmp_path: pathlib.Path, setting: dict[str, object]
) -> None:
    """M7: a repetition penalty in generation_config was ignored, and nothing said so."""
    assert not any("not applied" in note for note in load_engine(str(model), device="cpu").info.notes)
    for file in model.iterdir():
        if file.name != "generation_config.json":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").write_text(json.dumps(setting), encoding="utf-8")
    (note,) = [n for n in load_engine(str(tmp_path), device="cpu").info.notes if "not applied" in n]
    assert "=".join((next(iter(setting)), repr(next(iter(setting.values()))))) in note


def test_the_process_is_left_as_it_was(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor in a large serving project lifted Pillow's pixel limit for the whole process."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1234)
    had_progress_bar = is_progress_bar_enabled()
    load_engine(str(model), device="cpu")
    assert PIL.Image.MAX_IMAGE_PIXELS == 1234
    assert is_progress_bar_enabled() == had_progress_bar


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"device": "abacus"}, "device='abacus'"),
        ({"dtype": "int3"}, "dtype='int3'"),
        ({"attn": "telepathy"}, "attn='telepathy'"),
        ({"decode": "backwards"}, "decode='backwards'"),
        ({"device": "cpu", "attn": "flash"}, "needs a CUDA device"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(
    model: pathlib.Path, options: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ModelLoadError, match=complaint):
        load_engine(str(model), **options)  # type: ignore[arg-type]


def test_an_unknown_model_type_is_refused_with_the_supported_ones(tmp_path: pathlib.Path) -> None:
    for model_type in ("bert", "not-a-model"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
        with pytest.raises(ModelLoadError, match="gemma3, idefics3, internvl, llava"):
            load_engine(str(tmp_path), device="cpu")


def test_pickled_weights_are_not_loaded(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).symlink_to(file)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="safetensors"):
        load_engine(str(tmp_path), device="cpu")


def test_code_beside_the_weights_is_not_run(tmp_path: pathlib.Path) -> None:
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(ModelLoadError):
        load_engine(str(tmp_path), device="cpu")


def test_bfloat16_is_chosen_only_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place("cpu", "auto", "auto").dtype == torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    for has_it, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        placement = place("auto", "auto", "auto")
        assert (placement.device.type, placement.dtype) == ("cuda", dtype)
        assert "a card" in placement.reasons[0]
        assert not placement.is_recording  # not measured there
        assert "eager" in placement.reasons[-1]


TEXT_ONLY = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
BROKEN = "{% for m in messages %}{{ m.content"
WITH_A_NAME = "NAMED " + llava.TEMPLATE


@pytest.mark.parametrize(
    ("processor", "tokenizer", "wins"),
    [
        ("PROCESSOR " + llava.TEMPLATE, llava.TEMPLATE, "PROCESSOR USER"),
        (BROKEN, llava.TEMPLATE, "USER"),
        (TEXT_ONLY, llava.TEMPLATE, "USER"),
        (None, {"default": TEXT_ONLY, "vision": WITH_A_NAME}, "NAMED USER"),
        ({"default": TEXT_ONLY, "vision": WITH_A_NAME}, BROKEN, "NAMED USER"),
    ],
)
def test_m3_the_first_template_that_places_pictures_is_taken(
    model: pathlib.Path, tmp_path: pathlib.Path, processor: object, tokenizer: object, wins: str
) -> None:
    """M3: the tokenizer's template won over the processor's, and named or broken ones ended in tracebacks."""
    with_templates(model, tmp_path, processor, tokenizer)
    engine = load_engine(str(tmp_path), device="cpu")
    assert isinstance(engine, PrefixEngine)
    assert engine.adapter.chat_template.startswith(wins.removesuffix("USER"))


def test_m3_templates_that_all_fail_are_refused_with_their_reasons(
    model: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaAdapter, "default_chat_template", None)
    with_templates(model, tmp_path, BROKEN, TEXT_ONLY)
    with pytest.raises(ModelLoadError, match=r"processor's default template: .*tokenizer's default template"):
        load_engine(str(tmp_path), device="cpu")


def with_templates(model: pathlib.Path, target: pathlib.Path, processor: object, tokenizer: object) -> None:
    """The model's files with these chat templates of its processor and its tokenizer."""
    for file in model.iterdir():
        if file.name not in ("chat_template.jinja", "tokenizer_config.json"):
            (target / file.name).symlink_to(file)
    options = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = tokenizer
    if isinstance(tokenizer, dict):
        named = [{"name": name, "template": template} for name, template in tokenizer.items()]
    (target / "tokenizer_config.json").write_text(json.dumps(options | {"chat_template": named}))
    if processor is not None:
        (target / "processor_config.json").write_text(json.dumps({"chat_template": processor}))
