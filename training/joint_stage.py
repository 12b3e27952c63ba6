"""Stage 3: projector and decoder on what the trained tower really sees.

The tower is frozen, so its features are computed once (float16, 75 kB a view). First the projector is fitted
so that features become the symbolic cells that the decoder knows (distillation from the tower's own heads),
then projector and decoder are trained together on questions about scenes: the global view alone, a crop
alone, and pairs (global view, then crop).
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from server.embedded.tower import Tower, TowerConfig
from training.decoder_stage import WIDTH, Symbols, answer_logits, decoder_config, whole_answers
from training.journal import Journal, cosine, load_checkpoint, pick_device, save_checkpoint
from training.muon import Optimizers
from training.packing import Packer, prompt_after_images
from training.tokenizer import build_tokenizer
from training.tower_stage import Heads, to_pixels

QUESTIONS = 6


class Projector(nn.Module):
    """The two layers of LLaVA's multi-modal projector, under its names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(functional.gelu(self.linear_1(features)))


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


def load_pairs(root: pathlib.Path) -> tuple[list[Tensor], list[list[dict[str, Any]]]]:
    features, records = [], []
    for path in sorted((root / "features").glob("[0-9]*.npy")):
        features.append(torch.from_numpy(np.load(path)))
        with np.load(root / "pairs" / f"{path.stem}.npz") as shard:
            records.append(json.loads(str(shard["records"])))
    return features, records


def fit_projector(
    projector: Projector, symbols: Symbols, heads: Heads, features: list[Tensor], *, steps: int, seed: int
) -> float:
    """Distillation: MSE to the symbolic cells that the tower's heads believe in.

    Returns the last loss over the target's variance.
    """
    optimizer = torch.optim.AdamW(projector.parameters(), lr=3e-3)
    random = torch.Generator().manual_seed(seed)
    ratio = 1.0
    for step in range(steps):
        shard = features[step % len(features)]
        rows = torch.randint(len(shard), (16,), generator=random)
        views = torch.randint(3, (16,), generator=random)
        cells = shard[rows, views].float()
        with torch.no_grad():
            color = heads.color(cells).softmax(-1)
            slots = heads.slots(cells).view(*cells.shape[:2], 4, -1).softmax(-1)
            target = symbols(color, heads.anchor(cells)[..., 0].sigmoid(), slots)
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, peak=3e-3)
        weight = 1 + 6 * (1 - color[..., :1])
        loss = (weight * (projector(cells) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ratio = float(loss.detach() / (weight * (target - target.mean((0, 1))) ** 2).mean())
    return ratio


def draw_questions(
    rng: np.random.Generator, record: dict[str, Any], view: int, *, alone: bool
) -> list[tuple[str, str, str]]:
    """(kind, prompt, answer) for a picture: view 0 is the global view, 1 and 2 that crop, with it or alone.

    The crop's sign is asked about first; a crop alone gets no other question, since it shows only a part.
    """
    by_kind: dict[str, list[list[Any]]] = {}
    for question in record["questions"]:
        by_kind.setdefault(question[0], []).append(question)

    def any_of(kind: str) -> list[Any]:
        return by_kind[kind][int(rng.integers(len(by_kind[kind])))]

    coarse = [(kind, any_of(kind)) for kind in rng.permutation(["count", "presence", "color"]).tolist()]
    chosen = coarse
    if view:
        target = record["crops"][view - 1]["target"]
        chosen = [("read_crop", q) for q in by_kind["read"] if q[3] == target] + ([] if alone else coarse[:1])
    if not alone:
        kind = "read_other" if view else "read"
        chosen += [(kind, any_of("read")) for _ in range(QUESTIONS - len(chosen))]
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


def draw_pictures(
    rng: np.random.Generator, features: Tensor, records: list[dict[str, Any]], size: int
) -> tuple[Tensor, int, list[list[tuple[str, str, str]]]]:
    """Features [B, pictures * N, C], how many pictures, and the questions: all rows of one kind of prompt."""
    rows, views = rng.integers(len(records), size=size), rng.integers(1, 3, size=size)
    which = str(rng.choice(("global", "pair", "crop"), p=(0.42, 0.5, 0.08)))
    index = torch.from_numpy(rows)
    whole, crop = features[index, 0], features[index, torch.from_numpy(views)]
    cells = {"global": whole, "crop": crop, "pair": torch.cat([whole, crop], dim=1)}[which].float()
    asked = [
        draw_questions(rng, records[int(r)], 0 if which == "global" else int(v), alone=which == "crop")
        for r, v in zip(rows, views, strict=True)
    ]
    return cells, 2 if which == "pair" else 1, asked


def train(
    root: pathlib.Path,
    *,
    steps: int = 1600,
    batch: int = 16,
    peak: float = 1e-3,
    matrix_lr: float = 0.008,
    seed: int = 3,
) -> None:
    device, autocast, reason = pick_device()
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    packer = Packer(tokenizer)
    tower, heads = Tower(TowerConfig()), Heads(WIDTH, 128)
    model, symbols, projector = LlamaForCausalLM(decoder_config(len(tokenizer))), Symbols(), Projector()
    load_checkpoint(root / "tower.pt", {"tower": tower, "heads": heads})
    load_checkpoint(root / "decoder.pt", {"model": model, "symbols": symbols})
    compute_features(root, tower.to(device, memory_format=torch.channels_last), device, autocast)
    features, records = load_pairs(root)
    held_features, held_records = features.pop(), records.pop()  # the last shard is for looking only
    trained = nn.ModuleList([model, projector])
    optimizer = Optimizers(trained, rest=[], matrix_lr=matrix_lr, lr=peak)
    checkpoint = root / "joint.pt"
    first_step = load_checkpoint(checkpoint, {"model": model, "projector": projector}, optimizer)
    journal = Journal(root, "joint", steps, first_step=first_step)
    scenes = sum(len(r) for r in records)
    journal.write("start", first_step, device=reason, steps=steps, batch=batch, seed=seed, scenes=scenes)
    if first_step == 0:
        ratio = fit_projector(projector, symbols, heads, features, steps=1200, seed=seed)
        journal.write("projector", 0, unexplained_share=ratio)
    trained.to(device)
    rng = np.random.default_rng([seed, first_step])
    scores = Scores()

    def run(cells: Tensor, pictures: int, asked: list[list[tuple[str, str, str]]], tally: Scores) -> Tensor:
        rows = [[(prompt, answer) for _kind, prompt, answer in row] for row in asked]
        with torch.autocast(device.type, autocast):
            logits, truth, starts = answer_logits(model, packer, projector(cells.to(device)), rows, pictures)
        tally.add(asked, whole_answers(logits, truth, starts).tolist())
        return functional.cross_entropy(logits.float(), truth)

    @torch.no_grad()
    def look() -> dict[str, float]:
        tally, fixed = Scores(), np.random.default_rng(7)
        for _ in range(24):
            run(*draw_pictures(fixed, held_features, held_records, batch), tally)
        return tally.take()

    for step in range(first_step, steps):
        shard = int(rng.integers(len(features)))
        optimizer.scale(cosine(step, steps, peak=1.0))
        loss = run(*draw_pictures(rng, features[shard], records[shard], batch), scores)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            journal.progress(step + 1, loss=loss.item(), **scores.take())
        if (step + 1) % 200 == 0 or step + 1 == steps:
            save_checkpoint(checkpoint, step + 1, {"model": model, "projector": projector}, optimizer)
            journal.write("evaluation", step + 1, loss=loss.item(), held_out_scenes=look())
