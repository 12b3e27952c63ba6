"""A type has a file of its own only where the file does better than the generic path; here is what."""

from __future__ import annotations

import importlib
import json
import pathlib

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor

from secondglance_server.engine import loader
from secondglance_server.engine.adapters import discover
from secondglance_server.engine.generic.adapter import TOKENS_PER_PICTURE, grey
from secondglance_server.engine.generic.processor import load_processor
from secondglance_server.engine.generic.stock import StockEngine
from secondglance_server.engine.prefix import PrefixEngine
from tests.engine.conftest import load_family

ONE_VIEW = {"idefics3", "internvl", "llava_onevision", "smolvlm"}
BOUNDED = {"qwen2_5_vl", "qwen3_vl"}
COVERING = {"llava"}
SHARING = {"gemma3"}
OURS = {"secondglance_reader"}
WIDE = (224, 112)  # width, height


def test_every_file_has_its_reason() -> None:
    assert set(discover()) == ONE_VIEW | BOUNDED | COVERING | SHARING | OURS


@pytest.mark.parametrize("name", sorted(ONE_VIEW))
def test_a_picture_is_one_view_where_the_published_processor_makes_tiles(
    name: str, tmp_path: pathlib.Path
) -> None:
    """The first picture is no larger than a view; tiles of it would be paid for and show nothing new."""
    family = load_family(name, tmp_path)
    published = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    views = published(grey(*WIDE), return_tensors="pt")["pixel_values"].shape[-4:-3].numel()
    assert views > 1
    ours = family.engine.adapter.pixels(np.array(grey(*WIDE)))["pixel_values"]
    assert ours.shape[:-3].numel() == 1


@pytest.mark.parametrize("name", sorted(BOUNDED))
def test_a_pictures_tokens_are_bounded_where_the_published_processor_takes_thousands(
    name: str, tmp_path: pathlib.Path
) -> None:
    torch.manual_seed(0)
    importlib.import_module(f"tests.engine.tiny.{name}").build(tmp_path)
    saved = tmp_path / "preprocessor_config.json"
    published = {"shortest_edge": 16 * 16, "longest_edge": 16 * 16 * 4 * TOKENS_PER_PICTURE}
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"size": published}))
    processor = load_processor(str(tmp_path), AutoConfig.from_pretrained(tmp_path))
    grid = processor.image_processor(grey(2000, 2000), return_tensors="pt")["image_grid_thw"][0]
    assert int(grid.prod()) // 4 > TOKENS_PER_PICTURE
    image_processor = discover()[name].load_image_processor(str(tmp_path), None)
    grid = image_processor(grey(2000, 2000), return_tensors="pt")["image_grid_thw"][0]
    assert int(grid.prod()) // 4 <= TOKENS_PER_PICTURE


def test_llavas_grid_covers_the_picture_where_the_published_processor_cuts_its_sides_off(
    tmp_path: pathlib.Path,
) -> None:
    family = load_family("llava", tmp_path)
    published = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    dark = np.full((WIDE[1], WIDE[0], 3), 90, np.uint8)
    bright = dark.copy()
    bright[:, :20] = 255
    seen = [published(rgb, return_tensors="pt")["pixel_values"] for rgb in (dark, bright)]
    assert torch.equal(*seen)
    ours = [family.engine.adapter.pixels(rgb)["pixel_values"] for rgb in (dark, bright)]
    assert not torch.equal(*ours)


def test_gemma_3_shares_prefixes_where_the_generic_path_runs_whole_prompts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image tokens see each other, so that masks of a chunk behind a prefix are the file's business."""
    family = load_family("gemma3", tmp_path)
    assert isinstance(family.engine, PrefixEngine)
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"processor_class": "Gemma3Processor", "image_seq_length": 16})
    )
    monkeypatch.setattr(loader, "discover", dict)
    generic = loader.load_engine(str(tmp_path), device="cpu", dtype="float32")
    assert isinstance(generic, StockEngine)
    assert generic.info.answers_only is None
