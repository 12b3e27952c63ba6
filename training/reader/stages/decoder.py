"""Stage 2: the decoder learns to choose lines and to copy, on symbolic pictures without pixels.

Short forms with the selector last come first, few lines, nothing blurred; each level ends when its reading is
right often enough, at the latest after `MOST` steps.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secondglance_server.engine.reader.slots import content_of, lay_out
from secondglance_server.engine.reader.vocabulary import Vocabulary
from training.journal import Journal, cosine, load_checkpoint, save_checkpoint
from training.muon import Optimizers
from training.reader.asking import Asker
from training.reader.model import Example, Picture, Reader, run
from training.reader.symbolic import Difficulty, PooledLine, symbolic_view
from training.reader.targets import SeenView, _found, target_of
from training.reader.wordings import known_words

STEPS = 2400
_SCHEDULED = 3200  # the learning rate's cosine would end there; the joint stage takes over before
QUESTIONS = 6
MOST = 800  # steps of a level


@dataclass(frozen=True, slots=True)
class Level:
    """`enough`: the share of right readings that ends the level."""

    short: float
    off_domain: float
    enough: float
    difficulty: Difficulty


LEVELS = (
    Level(1.0, 0.02, 0.60, Difficulty(signs=2, blur=0.0, pooled=0.0, longest=8, multi=0.0)),
    Level(0.7, 0.05, 0.50, Difficulty(signs=4, blur=0.0, pooled=0.1, longest=16, multi=0.2)),
    Level(0.25, 0.10, 0.50, Difficulty(signs=5, blur=0.2, pooled=0.3, longest=26, multi=0.3)),
    Level(0.0, 0.12, 2.0, Difficulty(signs=6, blur=0.35, pooled=0.5, longest=26, multi=0.35)),
)


def symbolic_example(
    rng: np.random.Generator, level: Level, pool: list[PooledLine], vocabulary: Vocabulary
) -> tuple[Example, list[str]]:
    """Return one picture with its questions, and their kinds."""
    view, colors = symbolic_view(rng, level.difficulty, pool)
    content = content_of(*view.size)
    slots = lay_out(view.lines, content)
    seen = SeenView(view, content, slots, _found(view, slots), 0)
    by_number = np.zeros((max(len(slots.blocks), 1), colors.shape[1]), np.float32)
    for index, number in enumerate(slots.order):
        if number >= 0:
            by_number[number] = colors[index]
    asker = Asker(rng, short=level.short, off_domain=level.off_domain, asks_of_parts=True)
    asked = asker.ask(view.signs, QUESTIONS)
    questions = [(vocabulary.question(a.text), target_of(a, [seen], vocabulary)) for a in asked]
    return Example([Picture(slots, None, by_number)], questions), [a.kind for a in asked]


def level_after(steps: int, level: int, reading: float) -> int:
    """Return the level to go on with; `reading`: the share of right readings."""
    is_over = reading >= LEVELS[level].enough or steps >= (level + 1) * MOST
    return min(level + is_over, len(LEVELS) - 1)


def train(
    root: pathlib.Path,
    pool_source: pathlib.Path,
    *,
    steps: int = STEPS,
    batch: int = 12,
    seed: int = 2,
    until: int | None = None,
) -> None:
    """Train for `steps`, or the first `until` of them; resume from the last checkpoint."""
    from training.reader.pool import load_pool

    torch.manual_seed(seed)
    vocabulary = Vocabulary.of(known_words())
    model = Reader(vocabulary)
    trained = nn.ModuleList([model.tower.slots, model.decoder])
    optimizer = Optimizers(model.decoder, rest=[*model.tower.slots.parameters()], matrix_lr=0.02, lr=2e-3)
    checkpoint = root / "decoder.pt"
    first = load_checkpoint(checkpoint, {"model": model}, optimizer)
    journal = Journal(root, "decoder", steps, first_step=first)
    state_path = root / "decoder-level.txt"
    level = int(state_path.read_text()) if first and state_path.exists() else 0
    journal.write("start", first, steps=steps, batch=batch, seed=seed, level=level)
    right: dict[str, list[float]] = {}
    pool: list[PooledLine] = []
    last = until or steps
    for step in range(first, last):
        rng = np.random.default_rng([seed, step])
        if step % 250 == 0 or not pool:
            pool = load_pool(pool_source)
        drawn = [symbolic_example(rng, LEVELS[level], pool, vocabulary) for _ in range(batch)]
        with torch.autocast("cpu", torch.bfloat16):
            outcome = run(model, [example for example, _ in drawn], rng)
        loss = outcome.loss()
        optimizer.scale(cosine(step, _SCHEDULED, peak=1.0))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        kinds = [kind for _, names in drawn for kind in names]
        for kind, good in zip(kinds, outcome.right().tolist(), strict=True):
            right.setdefault(kind, []).append(good)
        if (step + 1) % 25 == 0 or step + 1 == last:
            scores = {kind: float(np.mean(values)) for kind, values in sorted(right.items())}
            reading = float(np.mean([v for k in ("color", "only") for v in right.get(k, [0.0])]))
            right.clear()
            journal.progress(step + 1, loss=loss.item(), level=level, reading=reading, **scores)
            if (step + 1) % 100 == 0 or step + 1 == last:
                journal.write(
                    "evaluation", step + 1, loss=loss.item(), level=level, reading=reading, **scores
                )
            level = level_after(step + 1, level, reading)
            state_path.write_text(str(level))
        if (step + 1) % 200 == 0 or step + 1 == last:
            save_checkpoint(checkpoint, step + 1, {"model": model}, optimizer)
