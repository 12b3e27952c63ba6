"""Stage 4: tower and decoder together, on what the reader and the dense grid really see.

One view, or a global view and a crop; every fourth batch is symbolic, so that copying stays sharp. The dense
grid is frozen. A further loss pulls the attention that the server reads to the sign that is asked about.
"""

from __future__ import annotations

import functools
import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from secondglance_server.engine.reader.vocabulary import Vocabulary
from training.journal import Journal, load_checkpoint, restarted, save_checkpoint
from training.muon import Optimizers
from training.reader.asking import Asked, Asker
from training.reader.drawing.views import load_records
from training.reader.model import Example, Features, Picture, Reader, known_shares, run
from training.reader.records import Record
from training.reader.render import spread
from training.reader.stages.decoder import LEVELS, symbolic_example
from training.reader.stages.features import load_dense_grid, load_features, store_features
from training.reader.symbolic import pool_of
from training.reader.targets import SeenView, see, target_of
from training.reader.wordings import known_words


class Fall(NamedTuple):
    """Steps over which the learning rate falls once to nothing, and what is drawn in them."""

    end: int
    pairs: float  # of the examples that show a scene
    photos: float | None  # of the scenes; None: as many as there are, 0.6


FALLS = (
    Fall(16_000, pairs=0.4, photos=None),
    Fall(20_000, pairs=0.4, photos=None),
    Fall(26_000, pairs=0.4, photos=None),
    Fall(35_000, pairs=0.5, photos=0.8),  # from here on more of what lags behind
    Fall(44_000, pairs=0.5, photos=0.7),
)
ENDS = tuple(fall.end for fall in FALLS)
QUESTIONS = 10
SYMBOLIC_EVERY = 4
SPELLED = 0.05  # of the known words, so that spelled ones are no surprise
GAZE_WEIGHT = 1.0
MISLED = 0.3  # of the pairs: the crop shows another sign than the one that is asked about
_CANDIDATES = 20


class JointData:
    """Records with their slots, made when first used; `features`: of all their views, in order."""

    def __init__(self, records: Sequence[Record], features: Iterable[Features]) -> None:
        following = iter(features)
        self._records = records
        self._features = [[next(following) for _ in record.views] for record in records]
        self._seen: dict[tuple[int, int], SeenView] = {}

    def __len__(self) -> int:
        return len(self._records)

    def view(self, record: int, number: int) -> tuple[SeenView, Picture]:
        key = record, number
        view = self._records[record].views[number]
        if key not in self._seen:
            self._seen[key] = see(view, min(number, 1))
        seen = self._seen[key]
        return seen, Picture(seen.slots, self._features[record][number])


def joint_example(
    rng: np.random.Generator, data: JointData, vocabulary: Vocabulary, record: int, *, is_pair: bool
) -> tuple[Example, list[str]]:
    """Return a scene's views with questions.

    Of a pair most are about the sign that the crop was cut for, or, where it misleads, about the others.
    """
    views = [data.view(record, number) for number in range(2 if is_pair else 1)]
    seen = [s for s, _ in views]
    asked = Asker(rng, off_domain=0.15, asks_of_parts=True).ask(
        seen[0].view.signs, _CANDIDATES if is_pair else QUESTIONS
    )
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


def weights_of(records: Sequence[Record], photos: float | None) -> NDArray[np.float64] | None:
    """Return how likely each record is drawn, so that a share `photos` of all has a photograph behind it.

    None: all are drawn alike.
    """
    if photos is None:
        return None
    is_photo = np.array([record.source == "photo" for record in records])
    weights = np.where(is_photo, photos / max(is_photo.sum(), 1), (1 - photos) / max((~is_photo).sum(), 1))
    return weights / weights.sum()  # where one kind is missing


def start_model(root: pathlib.Path, vocabulary: Vocabulary) -> Reader:
    """Return the model with what the stages before have learnt."""
    model = Reader(vocabulary)
    load_checkpoint(root / "decoder.pt", {"model": model})
    load_dense_grid(root, model.tower)
    return model


@dataclass(frozen=True, slots=True)
class Plan:
    """A run of the stage. `until`: the step to stop before, if not at the end."""

    root: pathlib.Path
    scenes: pathlib.Path
    batch: int
    seed: int
    until: int | None
    processes: int


def train(
    root: pathlib.Path,
    scenes: pathlib.Path,
    *,
    batch: int = 8,
    seed: int = 4,
    until: int | None = None,
    processes: int = 2,
) -> None:
    """Train; each process takes its part of every batch, and all make the same step."""
    plan = Plan(root, scenes, batch, seed, until, processes)
    store_features(root, scenes, processes=processes)
    with tempfile.TemporaryDirectory() as folder:
        meeting = pathlib.Path(folder) / "meeting"
        spread(functools.partial(_work, plan, meeting), range(processes), processes)


def _work(plan: Plan, meeting: pathlib.Path, ranks: Sequence[int]) -> None:
    (rank,) = ranks
    if plan.processes == 1:
        _train(plan, rank)
        return
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=plan.processes
    )
    try:
        _train(plan, rank)
    finally:
        distributed.destroy_process_group()


def _train(plan: Plan, rank: int) -> None:
    torch.manual_seed(plan.seed)
    vocabulary = Vocabulary.of(known_words())
    model = start_model(plan.root, vocabulary)
    for part in (model.tower.dense, model.tower.scales):
        part.requires_grad_(False).eval()
    trained, rest = ([p for p in m.parameters() if p.requires_grad] for m in (model, model.tower))
    optimizer = Optimizers(model.decoder, rest=rest, matrix_lr=0.01, lr=1e-3)
    checkpoint = plan.root / "joint.pt"
    first = load_checkpoint(checkpoint, {"model": model}, optimizer)
    records = load_records(plan.scenes)
    data = JointData(records, load_features(plan.root, plan.scenes))
    pool = pool_of([view for record in records for view in record.views])
    weights = {fall: weights_of(records, fall.photos) for fall in FALLS}
    journal = Journal(plan.root, "joint", ENDS[-1], first_step=first) if rank == 0 else None
    if journal:
        journal.write(
            "start", first, steps=ENDS[-1], batch=plan.batch, seed=plan.seed, scenes=len(data),
            lines=len(pool), processes=plan.processes,
        )  # fmt: skip
    right: dict[str, list[float]] = {}
    gazes: list[float] = []
    last, share = plan.until or ENDS[-1], plan.batch // plan.processes
    for step in range(first, last):
        is_symbolic = step % SYMBOLIC_EVERY == 3
        fall = next(fall for fall in FALLS if step < fall.end)
        is_pair = bool(np.random.default_rng([plan.seed, step]).random() < fall.pairs)
        rng = np.random.default_rng([plan.seed, step, rank])
        if is_symbolic:
            drawn = [symbolic_example(rng, LEVELS[-1], pool, vocabulary) for _ in range(share)]
        else:
            rows = rng.choice(len(data), size=share, p=weights[fall]).tolist()
            drawn = [joint_example(rng, data, vocabulary, row, is_pair=is_pair) for row in rows]
        with torch.autocast("cpu", torch.bfloat16):  # a third faster where the processor has bf16 matrices
            outcome = run(model, [example for example, _ in drawn], rng, known_shares(rng, share))
        loss = outcome.loss()
        optimizer.scale(restarted(step, ENDS))
        optimizer.zero_grad()
        (loss + GAZE_WEIGHT * outcome.gaze).backward()
        average_gradients(trained, plan.processes)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if not journal:
            continue
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


def average_gradients(parameters: Sequence[Tensor], processes: int) -> None:
    """Make each gradient the mean of all processes' own; all have gradients of the same parameters."""
    if processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = (flat / processes).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


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
