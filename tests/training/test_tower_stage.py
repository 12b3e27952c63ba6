"""The tower's stage: pixels, shards, losses, and a run of two steps on a handful of views."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from training import tower_stage
from training.pictures import pairs, views
from training.tower_stage import FIELDS, augment, dense_loss, draw_views, load_shards, to_pixels


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Eight collages to learn from, four to look at."""
    root = tmp_path_factory.mktemp("shards")
    for folder, seeds in (("tower", range(8)), ("tower_eval", range(8, 12))):
        (root / folder).mkdir()
        views.write_shard(root / folder / "000.npz", views.held_out_collage, seeds)
    return root


def test_pixels_are_what_the_models_processor_makes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    processor = LlavaImageProcessorPil(
        do_pad=True,
        do_center_crop=False,
        size={"height": 224, "width": 224},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    wanted = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    assert (to_pixels(torch.from_numpy(image)[None]) - wanted).abs().max() < 1e-6


def test_a_letterboxed_view_is_what_the_processor_makes_of_the_picture() -> None:
    """Training pads the views itself; the server leaves that to the processor."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 56, 3), dtype=np.uint8)).resize(
        (224, 121), Image.Resampling.BICUBIC
    )
    processor = LlavaImageProcessorPil(
        do_pad=True,
        do_center_crop=False,
        size={"height": 224, "width": 224},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    wanted = processor(picture, return_tensors="pt")["pixel_values"]
    found = to_pixels(torch.from_numpy(np.array(views.letterbox(picture)))[None])
    assert (found - wanted).abs().max() < 0.01


def test_augmented_pixels_stay_in_range_and_come_from_the_generator() -> None:
    pixels = to_pixels(torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8))
    first, again = (augment(pixels.clone(), torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.abs().max() <= 1
    assert not torch.equal(first, augment(pixels.clone(), torch.Generator().manual_seed(5)))


def test_shards_are_read_once_and_pairs_count_as_three_views(
    tmp_path: pathlib.Path, held_out_fonts: None
) -> None:
    pairs.write_shard(tmp_path / "000.npz", range(2))
    (tmp_path / "001.part.npz").write_bytes(b"not yet whole")
    known: dict[str, dict[str, torch.Tensor]] = {}
    load_shards(tmp_path, known)
    assert list(known) == ["000.npz"]
    assert {field: len(known["000.npz"][field]) for field in FIELDS} == dict.fromkeys(FIELDS, 6)
    held = known["000.npz"]
    load_shards(tmp_path, known)
    assert known["000.npz"] is held


def test_a_batch_comes_from_four_draws(shards: pathlib.Path) -> None:
    known: dict[str, dict[str, torch.Tensor]] = {}
    load_shards(shards / "tower", known)
    batch = draw_views(known, {}, 8, torch.Generator().manual_seed(0))
    assert batch["images"].shape == (8, 224, 224, 3)
    assert batch["characters"].shape == (8, 28, 56)


def test_the_loss_vanishes_for_heads_that_know_the_labels(shards: pathlib.Path) -> None:
    known: dict[str, dict[str, torch.Tensor]] = {}
    load_shards(shards / "tower", known)
    labels = {field: values[:2] for field, values in known["000.npz"].items()}

    def certain(truth: torch.Tensor, classes: int) -> torch.Tensor:
        return 50.0 * torch.nn.functional.one_hot(truth.long() % classes, classes).float()

    out = {
        "color": certain(labels["color"].flatten(1), 9),
        "anchor": 100.0 * labels["anchor"].flatten(1) - 50,
        "slots": certain(labels["slots"].flatten(1, 2), tower_stage.CODES),
        "characters": certain(labels["characters"], tower_stage.CODES),
    }
    loss, parts = dense_loss(out, labels)
    assert float(loss) < 1e-6
    assert max(parts.values()) < 1e-6
    out["color"] = -out["color"]
    assert float(dense_loss(out, labels)[0]) > 10


@pytest.mark.usefixtures("cpu_only")
def test_the_stage_trains_and_goes_on_from_its_checkpoint(
    shards: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for folder in ("tower", "tower_eval"):
        (tmp_path / folder).symlink_to(shards / folder)
    tower_stage.train(tmp_path, steps=2, batch=4)
    tower_stage.train(tmp_path, steps=3, batch=4)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["event"], row["step"]) for row in rows] == [
        ("start", 0),
        ("evaluation", 2),
        ("start", 2),
        ("evaluation", 3),
    ]
    looked = rows[1]["000.npz"]
    assert looked["signs"] > 10
    assert all(0 <= looked[name] <= 1 for name in ("read", "characters", "color", "all_anchors"))
