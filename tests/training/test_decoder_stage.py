"""The symbolic pictures that the decoder learns from: honest evidence, answers that follow from them."""

from __future__ import annotations

import itertools
import json
import pathlib
import re

import numpy as np
import pytest
import torch

from scenes.signs import CHARACTERS, COLORS
from training import decoder_stage
from training.decoder_stage import (
    CODES,
    PHASES,
    STEPS,
    Symbols,
    draw_batch,
    draw_crop,
    draw_grid,
    evidence,
    phase_at,
)
from training.pictures.views import SLOTS


def test_a_posterior_is_a_distribution() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CODES, (50, SLOTS))
    posterior = evidence(rng, codes, rng.uniform(0, 7, 50))
    assert posterior.shape == (50, SLOTS, CODES)
    assert (posterior >= 0).all()
    assert posterior.sum(-1) == pytest.approx(1.0)


@pytest.mark.parametrize("strength", [1.0, 2.0, 3.0])
def test_evidence_is_calibrated(strength: float) -> None:
    """Of the codes that a posterior gives a chance of about p, a share of about p is the true one."""
    rng = np.random.default_rng(1)
    signs = 4000
    codes = rng.integers(0, CODES, (signs, SLOTS))
    posterior = evidence(rng, codes, np.full(signs, strength)).reshape(-1, CODES)
    is_true = np.eye(CODES)[codes.reshape(-1)]
    edges = np.array([0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
    checked = 0
    for low, high in itertools.pairwise(edges):
        inside = (posterior >= low) & (posterior < high)
        if inside.sum() < 200:
            continue
        promised, happened = posterior[inside].mean(), is_true[inside].mean()
        spread = np.sqrt(promised * (1 - promised) / inside.sum())
        assert abs(happened - promised) < 4 * spread + 1e-3
        checked += 1
    assert checked >= 3


def test_evidence_runs_from_knowing_nothing_to_knowing() -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, CODES, (500, SLOTS))
    assert evidence(rng, codes, np.zeros(500)) == pytest.approx(1 / CODES)
    sharp = evidence(rng, codes, np.full(500, 7.0))
    assert (sharp.argmax(-1) == codes).mean() > 0.999
    means = [
        np.take_along_axis(evidence(rng, codes, np.full(500, s)), codes[..., None], -1).mean()
        for s in (0.5, 1.5, 2.5, 3.5)
    ]
    assert means == sorted(means)


def test_no_sign_covers_anothers_center() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        grid = draw_grid(rng, 6, [(int(w), int(h)) for w, h in rng.integers(1, 4, (5, 2))])
        owners = [int(grid.sign[cell]) for cell in grid.centers]
        assert len(set(owners)) == len(owners)
        assert owners == sorted(owners)
        assert {int(i) for i in grid.sign} - {-1} == set(owners)


def test_a_crop_shows_its_target_in_the_middle() -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        crop = draw_crop(rng, 14, 2, [0, 1])
        row, col = divmod(crop.centers[-1], 14)
        assert crop.sign[crop.centers[-1]] == 2
        assert 2 <= row <= 11
        assert 2 <= col <= 11
        missed = draw_crop(rng, 14, None, [0, 1])
        assert 2 not in missed.sign


@pytest.mark.parametrize("pairs", [False, True])
def test_answers_follow_from_what_the_cells_say(pairs: bool) -> None:
    batch = draw_batch(np.random.default_rng(5), 12, side=6, pairs=pairs, short=0.5, count=6)
    views = 2 if pairs else 1
    assert batch.color.shape == (12, views * 36, len(COLORS) + 1)
    assert batch.posterior.shape == (12, views * 36, SLOTS, CODES)
    assert batch.anchor.shape == (12, views * 36)
    assert torch.equal(batch.color.sum(-1), torch.ones(12, views * 36))
    for row in range(12):
        shown = batch.color[row, :36].argmax(-1)
        colors = {COLORS[int(i) - 1] for i in shown if i > 0}
        anchored = [COLORS[int(i) - 1] for i in shown[batch.anchor[row, :36] == 1]]
        assert sorted(anchored) == sorted(colors)  # one centre for each sign, on that sign
        for prompt, answer in batch.rows[row]:
            words = re.findall(r"\w+", prompt)
            named = [color for color in COLORS if color in words]
            if answer in ("yes", "no"):
                assert (named[0] in colors) == (answer == "yes")
            elif answer in COLORS:
                assert answer in colors
            elif named:
                assert named[0] in colors
                assert 1 <= len(answer) <= SLOTS
                assert set(answer) <= set(CHARACTERS)
            else:
                assert answer == str(len(colors))


def test_sharp_evidence_spells_the_answer() -> None:
    """Cells and answers belong together: a legible sign's likeliest text answers the reading question."""
    batch = draw_batch(np.random.default_rng(6), 16, side=6, pairs=False, short=1.0)
    spelled = 0
    for row in range(16):
        prompt, answer = batch.rows[row][0]
        assert prompt.startswith("\nwritten ")
        color = COLORS.index(prompt.split()[-1]) + 1
        cell = int((batch.color[row].argmax(-1) == color).nonzero()[0])
        codes = batch.posterior[row, cell].argmax(-1)
        if batch.posterior[row, cell].amax(-1).min() > 0.999:
            assert "".join(CHARACTERS[int(c) - 1] for c in codes if c > 0) == answer
            spelled += 1
    assert spelled > 3


def test_a_cell_is_the_sum_of_its_symbols() -> None:
    torch.manual_seed(0)
    symbols = Symbols(8)
    color = torch.zeros(1, 2, len(COLORS) + 1)
    color[0, 0, 0] = color[0, 1, 3] = 1  # an empty cell, a sign's centre
    anchor = torch.tensor([[0.0, 1.0]])
    posterior = torch.zeros(1, 2, SLOTS, CODES)
    posterior[..., 5] = 1
    cells = symbols(color, anchor, posterior)[0]
    assert torch.allclose(cells[0], symbols.color[0])
    assert torch.allclose(cells[1], symbols.color[3] + symbols.anchor + symbols.slots[:, 5].sum(0), atol=1e-6)


def test_phases_cover_the_whole_run() -> None:
    seen = [tuple(phase_at(step)) for step in range(STEPS)]
    assert list(dict.fromkeys(seen)) == [phase[1:] for phase in PHASES]
    ends = [phase[0] for phase in PHASES]
    assert ends == sorted(ends)
    assert seen[ends[0] - 1] != seen[ends[0]]


@pytest.mark.usefixtures("cpu_only")
def test_the_stage_trains_and_goes_on_from_its_checkpoint(tmp_path: pathlib.Path) -> None:
    decoder_stage.train(tmp_path, steps=2, batch=2)
    decoder_stage.train(tmp_path, steps=3, batch=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["event"], row["step"]) for row in rows] == [
        ("start", 0),
        ("evaluation", 2),
        ("start", 2),
        ("evaluation", 3),
    ]
    assert all(0 < row["loss"] < 20 for row in rows if row["event"] == "evaluation")
