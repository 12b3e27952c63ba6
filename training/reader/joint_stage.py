"""Stage 4: tower and decoder together, on what the reader and the dense grid really see.

One view, or a global view and a crop; every fourth batch is symbolic, so that copying stays sharp. The dense
grid is frozen. A further loss pulls the attention that the server reads to the sign that is asked about.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from torch import nn

from secondglance_server.engine.reader.vocabulary import Vocabulary
from training.journal import Journal, cosine, load_checkpoint, save_checkpoint
from training.muon import Optimizers
from training.reader.asking import Asked, Asker
from training.reader.decoder_stage import LEVELS, symbolic_example
from training.reader.drawing.views import load_records, padded_pixels
from training.reader.model import Example, Picture, Reader, known_shares, run
from training.reader.records import Record
from training.reader.symbolic import pool_of
from training.reader.targets import SeenView, see, target_of
from training.reader.wordings import known_words

STEPS = 15_600  # as many as the first seven sittings together (docs/training-reader.md)
QUESTIONS = 7
PAIRS = 0.4
SYMBOLIC_EVERY = 4
SPELLED = 0.05  # of the known words, so that spelled ones are no surprise
GAZE_WEIGHT = 1.0
MISLED = 0.3  # of the pairs: the crop shows another sign than the one that is asked about
_CANDIDATES = 14
_HELD_BACK_RECORDS = 200  # the last ones: dense_stage keeps their views for its evaluation


class JointData:
    """Records with their slots, made when first used. Pixels are decoded each time: all would take 14 GB."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self._seen: dict[tuple[int, int], SeenView] = {}

    def __len__(self) -> int:
        return len(self._records)

    def view(self, record: int, number: int) -> tuple[SeenView, Picture]:
        key = record, number
        view = self._records[record].views[number]
        if key not in self._seen:
            self._seen[key] = see(view, min(number, 1))
        seen = self._seen[key]
        return seen, Picture(seen.slots, padded_pixels(view))


def joint_example(
    rng: np.random.Generator, data: JointData, vocabulary: Vocabulary, record: int, *, is_pair: bool
) -> tuple[Example, list[str]]:
    """Return a scene's views with questions.

    Of a pair most are about the sign that the crop was cut for, or, where it misleads, about the others.
    """
    views = [data.view(record, number) for number in range(2 if is_pair else 1)]
    seen = [s for s, _ in views]
    asked = Asker(rng, off_domain=0.15).ask(seen[0].view.signs, _CANDIDATES if is_pair else QUESTIONS)
    target = seen[1].view.target if is_pair else None
    asked = asked[:QUESTIONS] if target is None else _about(asked, target, is_misled=rng.random() < MISLED)
    questions = [
        (
            vocabulary.question_spelled_at(a.text, lambda: rng.random() < SPELLED),
            target_of(a, seen, vocabulary),
        )
        for a in asked
    ]
    return Example([picture for _, picture in views], questions), [a.kind for a in asked]


def _about(asked: list[Asked], target: int, *, is_misled: bool) -> list[Asked]:
    others = [a for a in asked if a.sign != target]
    if is_misled:
        return sorted(others, key=lambda a: a.sign is None)[:QUESTIONS]
    about = [a for a in asked if a.sign == target][: QUESTIONS - 2]
    return (about + others)[:QUESTIONS]


def start_model(root: pathlib.Path, vocabulary: Vocabulary) -> Reader:
    """Return the model with what the stages before have learnt."""
    model = Reader(vocabulary)
    load_checkpoint(root / "decoder.pt", {"model": model})
    load_checkpoint(root / "dense.pt", {"dense": model.tower.dense})
    load_checkpoint(root / "scales.pt", {"scales": model.tower.scales})
    return model


def train(
    root: pathlib.Path,
    scenes: pathlib.Path,
    *,
    steps: int = STEPS,
    batch: int = 8,
    seed: int = 4,
    until: int | None = None,
) -> None:
    torch.manual_seed(seed)
    vocabulary = Vocabulary.of(known_words())
    model = start_model(root, vocabulary)
    for part in (model.tower.dense, model.tower.scales):
        part.requires_grad_(False).eval()
    rest = [p for name, p in model.tower.named_parameters() if p.requires_grad]
    optimizer = Optimizers(model.decoder, rest=rest, matrix_lr=0.01, lr=1e-3)
    checkpoint = root / "joint.pt"
    first = load_checkpoint(checkpoint, {"model": model}, optimizer)
    records = load_records(scenes)[:-_HELD_BACK_RECORDS]
    data, pool = JointData(records), pool_of([view for record in records for view in record.views])
    journal = Journal(root, "joint", steps, first_step=first)
    journal.write("start", first, steps=steps, batch=batch, seed=seed, scenes=len(data), lines=len(pool))
    right: dict[str, list[float]] = {}
    gazes: list[float] = []
    last = until or steps
    for step in range(first, last):
        rng = np.random.default_rng([seed, step])
        is_symbolic, is_pair = step % SYMBOLIC_EVERY == 3, bool(rng.random() < PAIRS)
        if is_symbolic:
            drawn = [symbolic_example(rng, LEVELS[-1], pool, vocabulary) for _ in range(batch)]
        else:
            rows = rng.integers(len(data), size=batch).tolist()
            drawn = [joint_example(rng, data, vocabulary, row, is_pair=is_pair) for row in rows]
        with torch.autocast("cpu", torch.bfloat16):  # a third faster where the processor has bf16 matrices
            outcome = run(model, [example for example, _ in drawn], rng, known_shares(rng, batch))
        loss = outcome.loss()
        optimizer.scale(cosine(step, steps, peak=1.0, warmup=50))
        optimizer.zero_grad()
        (loss + GAZE_WEIGHT * outcome.gaze).backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        name = "symbolic" if is_symbolic else "pair" if is_pair else "one"
        kinds = [f"{name}.{kind}" for _, names in drawn for kind in names]
        for kind, good in zip(kinds, outcome.right().tolist(), strict=True):
            right.setdefault(kind, []).append(good)
        if not is_symbolic:
            gazes.append(outcome.gaze.item())
        if (step + 1) % 25 == 0:
            journal.progress(step + 1, loss=loss.item(), gaze=float(np.mean(gazes[-20:])), **_short(right))
        if (step + 1) % 100 == 0 or step + 1 == last:
            scores = {kind: float(np.mean(values)) for kind, values in sorted(right.items())}
            right.clear()
            journal.write(
                "evaluation", step + 1, loss=loss.item(), gaze=float(np.mean(gazes[-20:])), **scores
            )
            save_checkpoint(checkpoint, step + 1, {"model": model}, optimizer)


def _short(right: dict[str, list[float]]) -> dict[str, float]:
    wanted = (
        "one.color",
        "one.only",
        "one.count",
        "one.presence",
        "one.cannot",
        "pair.color",
        "pair.only",
        "symbolic.color",
    )
    return {kind: float(np.mean(right[kind])) for kind in wanted if kind in right}
