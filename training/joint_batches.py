"""What the joint stage is shown and asked: scenes drawn into batches of one kind of prompt.

A prompt is the global view alone, with a crop after it, or a crop alone.
"""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scenes.signs import COLORS
from training.packing import prompt_after_images

QUESTIONS = 8
# so many reading questions ask for a text of that height in the global view where there is one
LEGIBLE_PX, LEGIBLE_SHARE = 6.0, 0.5
# of the batches: the global view alone, with a crop, or a crop alone
PROMPT_SHARES = {"global": 0.3, "pair": 0.65, "crop": 0.05}


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """A shard: `features` [scenes, 3, N, C], `color` (0: none), `anchor` [scenes, 3, N], scenes' records.

    `slots` [scenes, 3, N, SLOTS]: the text of the sign that lies there.
    """

    features: Tensor
    color: Tensor
    anchor: Tensor
    slots: Tensor
    records: list[dict[str, Any]]


def load_pairs(root: pathlib.Path) -> list[Pairs]:
    shards = []
    for path in sorted((root / "features").glob("[0-9]*.npy")):
        with np.load(root / "pairs" / f"{path.stem}.npz") as shard:
            color, anchor, slots = (
                torch.from_numpy(shard[name]).flatten(2, 3) for name in ("color", "anchor", "slots")
            )
            records = json.loads(str(shard["records"]))
        features = torch.from_numpy(np.load(path))
        shards.append(Pairs(features, color, anchor, slots, records))
    return shards


def draw_questions(
    rng: np.random.Generator, record: dict[str, Any], view: int, *, alone: bool
) -> list[tuple[str, str, str]]:
    """(kind, prompt, answer) for a picture: view 0 is the global view, 1 and 2 that crop, with it or alone.

    The crop's sign is asked about first; a crop alone gets no other question, since it shows only a part.
    With a crop, up to three questions give the text of another sign, an illegible one if there is one: the
    product's crop may show the wrong one of two, which rules that one out.
    """
    by_kind: dict[str, list[list[Any]]] = {}
    for question in record["questions"]:
        by_kind.setdefault(question[0], []).append(question)

    def any_of(kind: str) -> list[Any]:
        of_kind = by_kind[kind]
        if kind == "read":
            legible = [q for q in of_kind if record["heights"][q[3]] >= LEGIBLE_PX]
            of_kind = legible if legible and rng.random() < LEGIBLE_SHARE else of_kind
        return of_kind[int(rng.integers(len(of_kind)))]

    if not view:
        coarse = ["count", *rng.permutation(["presence", "color", "color"]).tolist()]
        chosen, filler = [(kind, any_of(kind)) for kind in coarse], "read"
    else:
        target, filler = record["crops"][view - 1]["target"], "read_other"
        chosen = [
            (f"{kind}_crop", q) for kind in ("read", "color") for q in by_kind.get(kind, ()) if q[3] == target
        ]
        if not alone:
            others = [q for q in by_kind["color"] if q[3] != target]
            rng.shuffle(others)
            others.sort(key=lambda q: record["heights"][q[3]] >= LEGIBLE_PX)
            chosen += [("color_other", q) for q in others[:3]]
            chosen += [(kind, any_of(kind)) for kind in ("count", "presence")]
    if not alone:
        chosen += [(filler, any_of("read")) for _ in range(QUESTIONS - len(chosen))]
    return [(name, prompt_after_images(q[1]), q[2]) for name, q in chosen]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """A batch of one kind of prompt: `cells` [B, count * N, C], `color` and `anchor` [B, count * N].

    `slots` [B, count * N, SLOTS]. `asked`: (kind, prompt, answer) of each question.
    """

    cells: Tensor
    color: Tensor
    anchor: Tensor
    slots: Tensor
    count: int
    asked: list[list[tuple[str, str, str]]]


def draw_pictures(rng: np.random.Generator, shard: Pairs, size: int) -> Pictures:
    rows, views = rng.integers(len(shard.records), size=size), rng.integers(1, 3, size=size)
    which = str(rng.choice([*PROMPT_SHARES], p=[*PROMPT_SHARES.values()]))
    index, view = torch.from_numpy(rows), torch.from_numpy(views)
    shown = {"global": (0,), "crop": (view,), "pair": (0, view)}[which]
    asked = [
        draw_questions(rng, shard.records[int(r)], 0 if which == "global" else int(v), alone=which == "crop")
        for r, v in zip(rows, views, strict=True)
    ]

    def views_of(values: Tensor) -> Tensor:
        return torch.cat([values[index, v] for v in shown], dim=1)

    color, anchor, slots = views_of(shard.color), views_of(shard.anchor), views_of(shard.slots)
    return Pictures(views_of(shard.features).float(), color, anchor, slots, len(shown), asked)


def color_asked(kind: str, prompt: str, answer: str) -> int:
    """The label of the sign that a question is about; -1 for none."""
    if kind.startswith("color"):
        return COLORS.index(answer) + 1
    if "read" not in kind:
        return -1
    return next((n for n, color in enumerate(COLORS, 1) if f" {color} " in prompt), -1)


def signs_asked(pictures: Pictures) -> Tensor:
    """`color_asked` of every question of the batch, in packing order."""
    return torch.tensor([color_asked(*question) for row in pictures.asked for question in row])
