"""Stage 3: projector and decoder on what the trained tower really sees.

The tower is frozen, so its features are computed once (float16, 75 kB a view). First the projector is fitted so that features
become the symbolic cells that the decoder knows (distillation from the tower's own heads), then projector and decoder are
trained together on questions about scenes: the global view alone, a crop alone, and pairs (global view, then crop).
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from scenes.signs import COLORS
from server.embedded.tower import Tower, TowerConfig
from training.decoder_stage import WIDTH, Symbols, answer_logits, decoder_config, whole_answers
from training.journal import Journal, cosine, load_checkpoint, pick_device, save_checkpoint
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
    """`features/NNN.npy` [scenes, 3, 196, width] float16 for each shard of pairs, made anew when the tower is newer."""
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


def fit_projector(projector: Projector, symbols: Symbols, heads: Heads, features: list[Tensor], *, steps: int, seed: int) -> float:
    """Distillation: MSE to the symbolic cells that the tower's heads believe in. Returns the last loss over the target's variance."""
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


def draw_questions(rng: np.random.Generator, record: dict[str, Any], view: int) -> list[tuple[str, str]]:
    """Questions for a picture: view 0 is the global view alone; 1 and 2 pair it with that crop, whose sign is asked first."""
    reads = [q for q in record["questions"] if q[0] == "read"]
    others = [q for q in record["questions"] if q[0] != "read"]
    chosen = [others[int(i)] for i in rng.permutation(len(others))[:2]]
    if view:
        target = record["crops"][view - 1]["target"]
        chosen = [q for q in reads if q[3] == target] + chosen[:1]
    chosen += [reads[int(i)] for i in rng.permutation(len(reads))[: QUESTIONS - len(chosen)]]
    return [(prompt_after_images(text), answer) for _kind, text, answer, _sign in chosen]


def kind_of(answer: str, prompt: str) -> str:
    if answer in ("yes", "no"):
        return "presence"
    if answer in COLORS:
        return "color"
    return "count" if "any" in prompt or "Count" in prompt or "number of" in prompt else "read"


def train(root: pathlib.Path, *, steps: int, batch: int = 16, peak: float = 8e-4, seed: int = 3) -> None:
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
    trained = nn.ModuleList([model, projector])
    optimizer = torch.optim.AdamW(trained.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    checkpoint = root / "joint.pt"
    first_step = load_checkpoint(checkpoint, {"model": model, "projector": projector}, optimizer)
    journal = Journal(root, "joint", steps, first_step=first_step)
    journal.write("start", first_step, device=reason, steps=steps, batch=batch, seed=seed, scenes=sum(len(r) for r in records))
    if first_step == 0:
        ratio = fit_projector(projector, symbols, heads, features, steps=1200, seed=seed)
        journal.write("projector", 0, unexplained_share=ratio)
    trained.to(device)
    rng = np.random.default_rng([seed, first_step])
    right: dict[str, list[float]] = {}
    for step in range(first_step, steps):
        shard = int(rng.integers(len(features)))
        rows = rng.integers(len(records[shard]), size=batch)
        paired = bool(rng.random() < 0.5)
        views = rng.integers(1, 3, size=batch)
        shown = [0, 0] if not paired else [0, 1]
        cells = features[shard][torch.from_numpy(rows), 0].float()
        if paired:
            second = features[shard][torch.from_numpy(rows), torch.from_numpy(views)].float()
            cells = torch.cat([cells, second], dim=1)
        asked = [draw_questions(rng, records[shard][int(r)], int(v) if paired else 0) for r, v in zip(rows, views, strict=True)]
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, peak=peak)
        with torch.autocast(device.type, autocast):
            logits, truth, starts = answer_logits(model, packer, projector(cells.to(device)), asked, len(set(shown)))
        loss = functional.cross_entropy(logits.float(), truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        good = whole_answers(logits, truth, starts).tolist()
        place = 0
        for row in asked:
            for number, (prompt, answer) in enumerate(row):
                kind = kind_of(answer, prompt)
                if paired and kind == "read":
                    kind = "read_crop" if number == 0 else "read_other"
                right.setdefault(kind, []).append(good[place])
                place += 1
        if (step + 1) % 50 == 0:
            scores = {kind: float(np.mean(values)) for kind, values in sorted(right.items())}
            right.clear()
            journal.progress(step + 1, loss=loss.item(), **scores)
            if (step + 1) % 200 == 0 or step + 1 == steps:
                save_checkpoint(checkpoint, step + 1, {"model": model, "projector": projector}, optimizer)
                journal.write("evaluation", step + 1, loss=loss.item(), **scores)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    train(pathlib.Path("out/training"), steps=arguments.steps)
