"""Stage 3: projector and decoder on what the trained tower really sees.

The tower is frozen, so its features are computed once (float16, 75 kB a view). First the projector is fitted
so that features become the symbolic cells that the decoder knows (distillation from the tower's own heads),
then projector and decoder are trained together on questions about scenes: the global view alone, a crop
alone, and pairs (global view, then crop).
"""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from scenes.signs import COLORS
from server.embedded.tower import Tower, TowerConfig
from training.beliefs import Beliefs, answer_codes, answer_loss, beliefs_of
from training.decoder_stage import WIDTH, Answers, Symbols, answer_logits, decoder_config, whole_answers
from training.exported import exported_parts
from training.gaze import Gaze
from training.journal import Journal, cosine, load_checkpoint, pick_device, save_checkpoint
from training.muon import Optimizers
from training.packing import Packer, prompt_after_images
from training.projector import Projector, fit_projector, recover_symbols, shipped_cells, start_projector
from training.tokenizer import build_tokenizer
from training.tower_stage import Heads, to_pixels

QUESTIONS = 8
GAZE_WEIGHT = 0.3
# so many reading questions ask for a text of that height in the global view where there is one
LEGIBLE_PX, LEGIBLE_SHARE = 6.0, 0.5
# of an answer's tokens in the loss: one digit for five signs teaches less than the characters of six texts
KIND_WEIGHTS = {"count": 4.0, "color": 3.0, "color_crop": 3.0, "color_other": 5.0, "presence": 4.0}
# of the batches: the global view alone, with a crop, or a crop alone
PROMPT_SHARES = {"global": 0.3, "pair": 0.65, "crop": 0.05}
# up to so many of the cells' standard deviations, another number for every picture. The tower's heads read
# nearly as well at 0.8 as without any (0.970 of legible signs, 0.980), while the lead on scenes that
# the decoder was trained on (0.957 against 0.925) is gone there: noise hides what was learnt by heart
FEATURE_NOISE = 0.9


@torch.no_grad()
def compute_features(root: pathlib.Path, tower: Tower, device: torch.device, autocast: torch.dtype) -> None:
    """Writes `features/NNN.npy` [scenes, 3, 196, width] float16 where missing or older than the tower."""
    tower.eval()
    folder = root / "features"
    folder.mkdir(exist_ok=True)
    tower_age = (root / "tower.pt").stat().st_mtime
    for path in sorted((root / "pairs").glob("[0-9]*.npz")):
        target = folder / f"{path.name.split('.')[0]}.npy"
        if path.name.endswith(".part.npz") or (target.exists() and target.stat().st_mtime > tower_age):
            continue
        with np.load(path) as shard:
            images = torch.from_numpy(shard["images"].reshape(-1, *shard["images"].shape[2:]))
        out = []
        for start in range(0, len(images), 50):
            pixels = to_pixels(images[start : start + 50]).to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, autocast):
                out.append(tower.features(pixels)[0].to("cpu", torch.float16))
        np.save(target, torch.cat(out).view(-1, 3, *out[0].shape[1:]).numpy())


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


class Scores:
    """The share of whole answers that were right, by kind of question."""

    def __init__(self) -> None:
        self._right: dict[str, list[bool]] = {}

    def add(self, asked: list[list[tuple[str, str, str]]], good: list[bool]) -> None:
        kinds = [kind for row in asked for kind, _prompt, _answer in row]
        for kind, is_right in zip(kinds, good, strict=True):
            self._right.setdefault(kind, []).append(is_right)

    def take(self) -> dict[str, float]:
        scores = {kind: round(float(np.mean(values)), 4) for kind, values in sorted(self._right.items())}
        self._right.clear()
        return scores


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


def beliefs_about(pictures: Pictures, heads: Heads, device: torch.device) -> Beliefs:
    """What the tower believes about the questions of the batch that are about one sign."""
    kinds = [kind for row in pictures.asked for kind, _prompt, _answer in row]
    counts = torch.tensor([len(row) for row in pictures.asked])
    return beliefs_of(
        heads,
        pictures.cells.to(device),
        pictures.color.to(device),
        pictures.anchor.to(device),
        pictures.slots.to(device),
        rows=torch.repeat_interleave(torch.arange(len(counts)), counts).to(device),
        labels=signs_asked(pictures).to(device),
        about_color=torch.tensor([kind.startswith("color") for kind in kinds]).to(device),
        views=pictures.count,
    )


def gaze_loss(gaze: Gaze, pictures: Pictures, answers: Answers) -> Tensor:
    """On the latest picture of the prompt: the global view where it is alone, else the crop."""
    device = answers.allowed.device
    cells = pictures.color.shape[1] // pictures.count
    length = answers.allowed.shape[-1] - answers.packed.ids.shape[1]
    rows, offsets = answers.packed.first.nonzero(as_tuple=True)
    labels = signs_asked(pictures)
    wanted = (pictures.color[rows, -cells:].long() == labels.unsqueeze(1)).float()
    image = torch.arange(length - cells, length, device=device)
    places = (offsets + length).to(device)
    return gaze.loss(rows.to(device), places, answers.allowed, image, wanted.to(device))


def train(
    root: pathlib.Path,
    *,
    steps: int = 4400,
    batch: int = 16,
    peak: float = 1e-3,
    matrix_lr: float = 0.004,
    seed: int = 3,
    start: pathlib.Path | None = None,
) -> None:
    """`start`: a model directory whose decoder is trained on, instead of the decoder stage's."""
    device, autocast, reason = pick_device()
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    packer = Packer(tokenizer)
    tower, heads = Tower(TowerConfig()), Heads(WIDTH, 128)
    model, symbols, projector = LlamaForCausalLM(decoder_config(len(tokenizer))), Symbols(), Projector()
    load_checkpoint(root / "tower.pt", {"tower": tower, "heads": heads})
    if start is None:
        load_checkpoint(root / "decoder.pt", {"model": model, "symbols": symbols})
    else:
        model.load_state_dict(exported_parts(start)["decoder"])
    for part in (tower, heads, model, symbols, projector):
        part.to(device)
    compute_features(root, tower.to(memory_format=torch.channels_last), device, autocast)
    *shards, held_out = load_pairs(root)  # the last shard is for looking only
    trained = nn.ModuleList([model, projector])
    optimizer = Optimizers(model, rest=[*projector.parameters()], matrix_lr=matrix_lr, lr=peak)
    checkpoint = root / "joint.pt"
    first_step = load_checkpoint(checkpoint, {"model": model, "projector": projector}, optimizer)
    journal = Journal(root, "joint", steps, first_step=first_step)
    scenes = sum(len(shard.records) for shard in shards)
    journal.write("start", first_step, device=reason, steps=steps, batch=batch, seed=seed, scenes=scenes)
    if first_step == 0:
        if start is not None:
            projector.load_state_dict(exported_parts(start)["projector"])
            old, new = shipped_cells(root, start, 150, device), shards[0].features[:150].float().to(device)
            rest = recover_symbols(projector, symbols, heads, old, new.flatten(0, 1))
            journal.write("symbols", 0, unexplained_share=rest)
        start_projector(projector, symbols, heads, shards[0].features[:40].float().to(device))
        features = [shard.features for shard in shards]
        ratio = fit_projector(projector, symbols, heads, features, steps=1500, seed=seed)
        journal.write("projector", 0, unexplained_share=ratio)
    rng = np.random.default_rng([seed, first_step])
    scores, gaze, codes = Scores(), Gaze(model), answer_codes(tokenizer).to(device)

    def run(pictures: Pictures, tally: Scores) -> tuple[Tensor, Tensor]:
        rows = [[(prompt, answer) for _kind, prompt, answer in row] for row in pictures.asked]
        with torch.autocast(device.type, autocast):
            seen = pictures.cells.to(device)
            if torch.is_grad_enabled():
                strength = FEATURE_NOISE * torch.rand(len(seen), 1, 1, device=device)
                seen = seen + strength * seen.std() * torch.randn_like(seen)
            cells = projector(seen)
            answers = answer_logits(model, packer, cells, rows, pictures.count)
        logits, truth, starts, *_ = answers
        tally.add(pictures.asked, whole_answers(logits, truth, starts).tolist())
        kinds = torch.tensor([KIND_WEIGHTS.get(q[0], 1.0) for row in pictures.asked for q in row])
        weight = kinds.to(device)[starts.long().cumsum(0) - 1]  # of each answer's tokens
        beliefs = beliefs_about(pictures, heads, device)
        losses = answer_loss(logits.float(), truth, starts, beliefs, codes)
        return (weight * losses).sum() / weight.sum(), gaze_loss(gaze, pictures, answers)

    @torch.no_grad()
    def look() -> dict[str, float]:
        tally, fixed = Scores(), np.random.default_rng(7)
        for _ in range(24):
            run(draw_pictures(fixed, held_out, batch), tally)
        return tally.take()

    for step in range(first_step, steps):
        shard = shards[int(rng.integers(len(shards)))]
        optimizer.scale(cosine(step, steps, peak=1.0))
        loss, looking = run(draw_pictures(rng, shard, batch), scores)
        optimizer.zero_grad()
        (loss + GAZE_WEIGHT * looking).backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            journal.progress(step + 1, loss=loss.item(), gaze=looking.item(), **scores.take())
        if (step + 1) % 200 == 0 or step + 1 == steps:
            save_checkpoint(checkpoint, step + 1, {"model": model, "projector": projector}, optimizer)
            journal.write("evaluation", step + 1, loss=loss.item(), held_out_scenes=look())
