"""`python -m training.reader`: all stages, what they store for each other, several processes."""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import sys
from collections.abc import Sequence
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from torch import distributed, nn

from scenes.fonts import font_files
from secondglance_server.engine.reader.tower import ReaderTower, ReaderTowerConfig
from training.journal import restarted, save_checkpoint
from training.muon import Optimizers
from training.reader import __main__ as command
from training.reader.drawing import worlds
from training.reader.drawing.views import load_records, padded_pixels
from training.reader.model import packed, pixel_values, unpacked
from training.reader.records import Record, render_shard
from training.reader.render import spread
from training.reader.stages import order
from training.reader.stages.features import load_features, store_features
from training.reader.stages.joint import ENDS, FALLS, average_gradients, weights_of


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that were run, and on what; their real signatures decide whether the calls are good."""
    names: list[str] = []

    def stand_in(module: object, name: str) -> None:
        def note(*given: object, **_: object) -> int:
            places = [
                part.parent.name for part in given if isinstance(part, pathlib.Path) and part.name == "train"
            ]
            names.append(" ".join([name, *places]))
            return 0

        real = getattr(module, name)
        monkeypatch.setattr(module, name, create_autospec(real, side_effect=note))

    stand_in(order, "render")
    stand_in(order.decoder, "train")
    stand_in(order.dense, "train")
    stand_in(order.dense, "train_scales")
    stand_in(order.joint, "train")
    stand_in(order.export, "export")
    return names


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, held_out_fonts: None) -> pathlib.Path:
    """Two shards of two scenes that nobody read, and a dense grid from nothing."""
    monkeypatch.setattr(worlds, "font_files", lambda split: font_files("test"))
    monkeypatch.setattr(worlds, "_background", lambda rng, split, aspect: worlds.PlainWall(rng))
    monkeypatch.setattr("training.reader.records.SCENES_PER_SHARD", 2)
    for number in (0, 1):
        render_shard(tmp_path / "scenes", "train", number, None)
    torch.manual_seed(0)
    tower = ReaderTower(ReaderTowerConfig())
    for stage, module in (("dense", tower.dense), ("scales", tower.scales)):
        optimizer = Optimizers(module, rest=[], matrix_lr=0.1, lr=0.1)
        save_checkpoint(tmp_path / f"{stage}.pt", 1, {stage: module}, optimizer)
    return tmp_path / "scenes" / "train"


def call(monkeypatch: pytest.MonkeyPatch, root: pathlib.Path, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["training.reader", "--root", str(root), "--processes", "1", *options])
    command.main()


def test_every_stage_runs_after_those_that_it_needs(
    ran: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(monkeypatch, tmp_path / "new")
    assert ran == [
        "render", "train scenes", "render", "train unread", "train_scales unread", "train scenes", "export",
    ]  # fmt: skip


def test_one_stage_can_be_run_alone(
    ran: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(monkeypatch, tmp_path, "--stage", "scales", "--stage", "export")
    assert ran == ["train_scales unread", "export"]


def test_stored_features_are_what_the_grid_sees_of_each_view_in_order(shards: pathlib.Path) -> None:
    root = shards.parent.parent
    store_features(root, shards, processes=1)
    stored = load_features(root, shards)
    views = [view for record in load_records(shards) for view in record.views]
    tower = ReaderTower(ReaderTowerConfig()).eval()
    tower.dense.load_state_dict(torch.load(root / "dense.pt", weights_only=True)["dense"])
    tower.scales.load_state_dict(torch.load(root / "scales.pt", weights_only=True)["scales"])
    with torch.no_grad():
        seen = tower.see(pixel_values([padded_pixels(view) for view in views]))
    assert len(stored) == len(views) > 4
    np.testing.assert_allclose(np.stack(stored), packed(seen), rtol=2e-3, atol=2e-3)
    for maps, again in zip(seen, unpacked(list(packed(seen))), strict=True):
        assert torch.equal(maps, again)


def test_features_are_stored_once(shards: pathlib.Path) -> None:
    root = shards.parent.parent
    store_features(root, shards, processes=1)
    written = sorted((root / "features").iterdir())
    times = [path.stat().st_mtime_ns for path in written]
    written[1].unlink()
    store_features(root, shards, processes=1)
    assert sorted((root / "features").iterdir()) == written
    assert written[0].stat().st_mtime_ns == times[0]
    assert written[1].stat().st_mtime_ns > times[1]


def leave_a_file(items: Sequence[pathlib.Path]) -> None:
    for path in items:
        path.write_text(str(os.getpid()))


def fail_at_three(items: Sequence[int]) -> None:
    if 3 in items:
        raise ValueError("three")


def test_items_are_worked_on_in_several_processes(tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / str(number) for number in range(5)]
    spread(leave_a_file, paths, 2)
    workers = [path.read_text() for path in paths]
    assert len(set(workers)) == 2
    assert str(os.getpid()) not in workers
    assert all(a != b for a, b in itertools.pairwise(workers))


def test_a_process_that_fails_is_said() -> None:
    with pytest.raises(RuntimeError, match="exit code 1"):
        spread(fail_at_three, range(4), 2)


def write_mean_of_gradients(folder: pathlib.Path, ranks: Sequence[int]) -> None:
    (rank,) = ranks
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(4))]
    for number in (0, 2):  # the second has no gradient
        parameters[number].grad = torch.full_like(parameters[number], float(number + rank))
    average_gradients(parameters, 2)
    torch.save([p.grad for p in parameters], folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_all_processes_step_by_the_mean_of_their_gradients(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    spread(functools.partial(write_mean_of_gradients, tmp_path), range(2), 2)
    for rank in range(2):
        first, none, last = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert none is None
        assert torch.equal(first, torch.full((2, 3), 0.5))
        assert torch.equal(last, torch.full((4,), 2.5))


@pytest.mark.parametrize(("drawn", "photos", "share"), [(3, 2, 0.8), (1, 5, 0.8), (0, 4, 1.0), (4, 0, 0.0)])
def test_late_scenes_are_mostly_on_photographs_and_each_kind_is_drawn_evenly(
    drawn: int, photos: int, share: float
) -> None:
    records = [Record(seed, "drawn" if seed < drawn else "photo", ()) for seed in range(drawn + photos)]
    weights = weights_of(records, 0.8)
    assert weights is not None
    assert weights.sum() == pytest.approx(1)
    assert weights[drawn:].sum() == pytest.approx(share)
    assert len(set(weights[:drawn])) <= 1
    assert len(set(weights[drawn:])) <= 1
    assert weights_of(records, None) is None


def test_each_step_of_the_joint_stage_lies_in_one_fall_of_its_rate() -> None:
    """The rate begins each later fall at its peak, and falls in no two of them at once."""
    ends = [fall.end for fall in FALLS]
    assert ends == sorted(set(ends)) == list(ENDS)
    for fall in FALLS[1:]:
        begin = ends[ends.index(fall.end) - 1]
        assert restarted(begin, ENDS) == pytest.approx(0.4)
        assert 0 < restarted(fall.end - 1, ENDS) < 0.001
