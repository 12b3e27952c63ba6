"""The joint stage: which questions go with which pictures, and a run of two steps on tiny shards."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from scenes.generator import make_scene, shown_share
from secondglance_server.engine.embedded.tower import Tower, TowerConfig
from training import joint_batches, joint_stage
from training.decoder_stage import WIDTH, Symbols, decoder_config
from training.export import export
from training.joint_batches import Pairs, color_asked, draw_pictures, draw_questions
from training.joint_stage import Scores
from training.journal import save_checkpoint
from training.muon import Optimizers
from training.pictures import pairs
from training.projector import Projector, fit_projector
from training.tokenizer import build_tokenizer
from training.tower_stage import Heads


@pytest.fixture
def record(held_out_fonts: None) -> dict[str, Any]:
    return pairs.pair_example(1)[1]


def test_a_record_tells_the_scene_its_crops_were_cut_from(held_out_fonts: None) -> None:
    seen, record = pairs.pair_example(4)
    assert len(seen) == 3
    scene = make_scene(record["seed"], split="train")
    assert [q[1] for q in record["questions"]] == [q.text for q in scene.questions]
    assert len(record["heights"]) == len(scene.signs)
    for crop in record["crops"]:
        assert len(crop["shares"]) == len(scene.signs)
    assert len({crop["target"] for crop in record["crops"]}) == 2


def test_most_crops_show_their_target_and_some_miss_it(held_out_fonts: None) -> None:
    shares = [
        crop["shares"][crop["target"]] for seed in range(24) for crop in pairs.pair_example(seed)[1]["crops"]
    ]
    assert 0.75 < np.mean([share > 0.9 for share in shares]) < 1
    assert min(shares) < 0.5


def test_shown_share_is_the_part_of_the_sign_in_the_box() -> None:
    assert shown_share((10, 10, 20, 20), (0, 0, 100, 100)) == 1
    assert shown_share((10, 10, 20, 20), (15, 0, 100, 15)) == 0.25
    assert shown_share((10, 10, 20, 20), (30, 30, 40, 40)) == 0


def test_a_global_view_is_asked_everything(record: dict[str, Any]) -> None:
    asked = draw_questions(np.random.default_rng(0), record, 0, alone=False)
    kinds = [kind for kind, _, _ in asked]
    assert len(asked) == joint_batches.QUESTIONS
    assert kinds[0] == "count"
    assert sorted(kinds[1:4]) == ["color", "color", "presence"]
    assert set(kinds[4:]) == {"read"}
    known = {(f"\n{q[1]} ASSISTANT:", q[2]) for q in record["questions"]}
    assert {(prompt, answer) for _, prompt, answer in asked} <= known


@pytest.mark.parametrize("view", [1, 2])
def test_a_crop_is_asked_about_its_own_sign(record: dict[str, Any], view: int) -> None:
    target = record["crops"][view - 1]["target"]
    wanted = next(q for q in record["questions"] if q[0] == "read" and q[3] == target)
    colored = next(q for q in record["questions"] if q[0] == "color" and q[3] == target)
    paired = draw_questions(np.random.default_rng(1), record, view, alone=False)
    assert paired[:2] == [
        ("read_crop", f"\n{wanted[1]} ASSISTANT:", wanted[2]),
        ("color_crop", f"\n{colored[1]} ASSISTANT:", colored[2]),
    ]
    assert len(paired) == joint_batches.QUESTIONS
    assert draw_questions(np.random.default_rng(1), record, view, alone=True) == paired[:2]


@pytest.mark.parametrize("view", [1, 2])
def test_a_crop_is_asked_for_the_colour_of_the_signs_that_it_was_not_cut_for(
    record: dict[str, Any], view: int
) -> None:
    """The product's crop may show the wrong one of two signs: that rules it out."""
    target = record["crops"][view - 1]["target"]
    paired = draw_questions(np.random.default_rng(1), record, view, alone=False)
    asked = [(prompt, answer) for kind, prompt, answer in paired if kind == "color_other"]
    others = [q for q in record["questions"] if q[0] == "color" and q[3] != target]
    known = {f"\n{q[1]} ASSISTANT:": q for q in others}
    assert len(asked) == min(len(others), 3)
    heights = [record["heights"][known[prompt][3]] for prompt, _ in asked]
    hidden = sum(record["heights"][q[3]] < joint_batches.LEGIBLE_PX for q in others)
    assert sum(h < joint_batches.LEGIBLE_PX for h in heights) == min(hidden, 3)


def test_rows_of_a_batch_are_of_one_kind_of_prompt(record: dict[str, Any]) -> None:
    features = torch.arange(2 * 3 * 4 * 5, dtype=torch.float16).view(2, 3, 4, 5)
    color = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4)
    slots = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    rng = np.random.default_rng(3)
    shapes = set()
    for _ in range(40):
        pictures = draw_pictures(rng, Pairs(features, color, color == 5, slots, [record, record]), 6)
        shapes.add((pictures.count, pictures.cells.shape[1]))
        assert pictures.cells.shape[:2] == pictures.color.shape == pictures.slots.shape[:2]
        assert len(pictures.cells) == len(pictures.asked) == 6
        assert pictures.cells.dtype == torch.float32
        first = [row[0][0] for row in pictures.asked]
        if pictures.count == 2:
            assert set(first) == {"read_crop"}
            assert all(torch.equal(c[:4], features[int(c[0, 0] >= 60), 0].float()) for c in pictures.cells)
    assert shapes == {(1, 4), (2, 8)}


def test_a_question_is_about_the_sign_that_it_names() -> None:
    assert color_asked("read", "\nWhat is written on the red sign? ASSISTANT:", "A7") == 1
    assert color_asked("color", "\nWhat color is the sign that says A7? ASSISTANT:", "black") == 8
    assert color_asked("color_crop", "\nWhat color is the sign that says A7? ASSISTANT:", "black") == 8
    assert color_asked("presence", "\nIs there a red sign? ASSISTANT:", "yes") == -1
    assert color_asked("count", "\nHow many signs are there? ASSISTANT:", "3") == -1


def test_scores_are_shares_by_kind_and_start_again() -> None:
    scores = Scores()
    asked = [[("read", "", ""), ("count", "", "")], [("read", "", "")]]
    scores.add(asked, [True, True, False])
    assert scores.take() == {"count": 1.0, "read": 0.5}
    assert scores.take() == {}


def test_the_projector_learns_the_symbolic_cells() -> None:
    torch.manual_seed(0)
    heads, symbols, projector = Heads(WIDTH, 128), Symbols(), Projector()
    features = [torch.randn(4, 3, 8, WIDTH).half()]
    start = fit_projector(Projector(), symbols, heads, features, steps=1, seed=0)
    assert fit_projector(projector, symbols, heads, features, steps=80, seed=0) < 0.5 * start


@pytest.mark.usefixtures("cpu_only", "held_out_fonts")
def test_the_stage_trains_goes_on_from_its_checkpoint_and_exports(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    (tmp_path / "pairs").mkdir()
    for shard in range(2):
        pairs.write_shard(tmp_path / "pairs" / f"{shard:03d}.npz", range(2 * shard, 2 * shard + 2))
    tower, heads, symbols = Tower(TowerConfig()), Heads(WIDTH, 128), Symbols()
    model = LlamaForCausalLM(decoder_config(len(build_tokenizer())))
    unused = Optimizers(nn.Linear(4, 8), rest=[], matrix_lr=0.1, lr=0.1)
    save_checkpoint(tmp_path / "tower.pt", 1, {"tower": tower, "heads": heads}, unused)
    save_checkpoint(tmp_path / "decoder.pt", 1, {"model": model, "symbols": symbols}, unused)
    monkeypatch.setattr(
        joint_stage, "fit_projector", lambda *parts, steps, seed: fit_projector(*parts, steps=2, seed=seed)
    )
    joint_stage.train(tmp_path, steps=2, batch=2)
    joint_stage.train(tmp_path, steps=3, batch=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["event"], row["step"]) for row in rows] == [
        ("start", 0),
        ("projector", 0),
        ("evaluation", 2),
        ("start", 2),
        ("evaluation", 3),
    ]
    assert rows[0]["scenes"] == 2  # the other shard is for looking only
    looked = rows[2]["held_out_scenes"]
    assert {"read", "read_crop", "count", "presence", "color"} <= set(looked)
    with np.load(tmp_path / "pairs" / "001.npz") as shard:
        assert shard["images"].shape == (2, 3, 224, 224, 3)
    assert np.load(tmp_path / "features" / "001.npy").shape == (2, 3, 196, WIDTH)
    assert export(tmp_path, tmp_path / "model") < 16_000_000
