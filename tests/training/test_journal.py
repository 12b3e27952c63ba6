"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import itertools
import json
import pathlib

import pytest
import torch
from torch import nn

from training.journal import Journal, cosine, held, load_checkpoint, restarted, save_checkpoint
from training.muon import Optimizers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))


def optimizer_of(model: nn.Module) -> Optimizers:
    return Optimizers(model, rest=[], matrix_lr=0.02, lr=2e-3)


def one_step(model: nn.Module, optimizer: Optimizers, step: int) -> None:
    batch = torch.randn(6, 4, 6, 6, generator=torch.Generator().manual_seed(step))
    optimizer.scale(cosine(step, 10, peak=1.0, warmup=1))
    loss = model(batch).square().mean() + model(batch)[:, 0].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_two_steps_in_one_go_equal_one_step_a_resume_and_one_step(tmp_path: pathlib.Path) -> None:
    straight = network()
    optimizer = optimizer_of(straight)
    for step in (0, 1):
        one_step(straight, optimizer, step)

    stopped = network()
    optimizer = optimizer_of(stopped)
    one_step(stopped, optimizer, 0)
    save_checkpoint(tmp_path / "model.pt", 1, {"model": stopped}, optimizer)
    resumed = network()
    optimizer = optimizer_of(resumed)
    assert load_checkpoint(tmp_path / "model.pt", {"model": resumed}, optimizer) == 1
    one_step(resumed, optimizer, 1)

    wanted, found = straight.state_dict(), resumed.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_without_the_optimizers_state_the_second_step_differs(tmp_path: pathlib.Path) -> None:
    """So the test above can fail: momentum counts."""
    straight = network()
    optimizer = optimizer_of(straight)
    one_step(straight, optimizer, 0)
    save_checkpoint(tmp_path / "model.pt", 1, {"model": straight}, optimizer)
    one_step(straight, optimizer, 1)
    forgetful = network()
    load_checkpoint(tmp_path / "model.pt", {"model": forgetful})
    one_step(forgetful, optimizer_of(forgetful), 1)
    assert not torch.equal(straight[3].weight, forgetful[3].weight)


def test_without_a_checkpoint_a_run_starts_at_zero(tmp_path: pathlib.Path) -> None:
    assert load_checkpoint(tmp_path / "none.pt", {"model": network()}) == 0


def test_a_checkpoint_that_fails_halfway_leaves_the_last_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    optimizer = optimizer_of(model)
    path = tmp_path / "model.pt"
    save_checkpoint(path, 3, {"model": model}, optimizer)

    def full_disk(_state: object, part: pathlib.Path) -> None:
        part.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, 4, {"model": model}, optimizer)
    assert load_checkpoint(path, {"model": model}) == 3


def test_the_rate_warms_up_peaks_and_falls_to_its_floor() -> None:
    rates = [cosine(step, 1000, peak=2.0) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) in (99, 100)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert cosine(1000, 1000, peak=2.0) == pytest.approx(0.04)


def test_the_journal_is_one_json_object_a_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path, "tower", 100)
    journal.write("start", 0, device="cpu")
    journal.write("evaluation", 50, loss=0.5, held={"read": 0.25})
    journal.progress(50, loss=0.5)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["event"], row["step"]) for row in rows] == [
        ("tower", "start", 0),
        ("tower", "evaluation", 50),
    ]
    assert rows[1]["held"] == {"read": 0.25}
    shown = capsys.readouterr()
    assert [json.loads(line) for line in shown.out.splitlines()] == rows
    assert "tower 50/100 eta" in shown.err


def test_a_longer_run_has_the_same_rates_until_the_shorter_one_falls() -> None:
    short, long = ([held(step, steps) for step in range(steps)] for steps in (1000, 3000))
    assert short[:300] == long[:300]
    assert short[0] == pytest.approx(0.02)
    assert set(short[50:300]) == {1.0}
    assert all(later < earlier for earlier, later in itertools.pairwise(short[300:]))
    assert 0 < short[-1] < 0.01


def test_a_restarted_run_is_the_shorter_one_and_falls_again_and_again() -> None:
    first, peaks = 800, (800, 1000, 1300)
    rates = [restarted(step, peaks) for step in range(peaks[-1])]
    assert rates[:first] == [held(step, first) for step in range(first)]
    for begin, end in itertools.pairwise(peaks):
        fall = rates[begin:end]
        assert fall[0] == pytest.approx(0.4)
        assert all(later < earlier for earlier, later in itertools.pairwise(fall))
        assert 0 < fall[-1] < 0.01
