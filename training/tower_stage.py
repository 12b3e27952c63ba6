"""Stage 1: the vision tower learns to read and to tell colours, by dense labels on rendered views.

Four heads that are thrown away afterwards: for each cell the sign's colour, whether it holds a sign's centre
and the whole sign's text (four slots); on the stem's fine map the single characters, which is what makes
reading emerge early.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scenes.signs import CHARACTERS, COLORS
from secondglance_server.engine.embedded.tower import Tower, TowerConfig
from training.exported import exported_parts, load_tower
from training.journal import Journal, cosine, load_checkpoint, pick_device, save_checkpoint
from training.muon import Optimizers
from training.pictures.views import IGNORE, SLOTS

CODES = len(CHARACTERS) + 1
# in the loss, by number of characters: a long text is one label, but four things to get right
TEXT_WEIGHTS = (0.0, 0.6, 0.8, 1.2, 1.8)
SCENES_SHARE = 0.5  # of a batch: scenes and their crops; the rest are mostly collages
FIELDS = ("images", "color", "anchor", "slots", "characters")


class Heads(nn.Module):
    """Training-only heads over the cells [B, N, C] and the fine map [B, F, 28, 28]."""

    def __init__(self, width: int, fine: int) -> None:
        super().__init__()
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.anchor = nn.Linear(width, 1)
        self.slots = nn.Linear(width, SLOTS * CODES)
        self.characters = nn.Conv2d(fine, 2 * CODES, 1)

    def forward(self, cells: Tensor, fine: Tensor) -> dict[str, Tensor]:
        batch, count, _ = cells.shape
        # [B, 28, 28, 2, codes]
        grid = self.characters(fine).view(batch, 2, CODES, 28, 28).permute(0, 3, 4, 1, 2)
        return {
            "color": self.color(cells),
            "anchor": self.anchor(cells)[..., 0],
            "slots": self.slots(cells).view(batch, count, SLOTS, CODES),
            "characters": grid.reshape(batch, 28, 56, CODES),
        }


def dense_loss(out: dict[str, Tensor], labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Sum of the four losses; characters and empty cells are averaged apart, since most cells are empty."""
    color = labels["color"].flatten(1).long()
    anchor = labels["anchor"].flatten(1).float()
    slots = labels["slots"].flatten(1, 2).long()
    on_sign = color > 0
    color_loss = functional.cross_entropy(out["color"].transpose(1, 2).float(), color)
    anchor_loss = functional.binary_cross_entropy_with_logits(
        out["anchor"].float(), anchor, pos_weight=torch.tensor(4.0, device=anchor.device)
    )
    slot_loss = functional.cross_entropy(
        out["slots"][on_sign].transpose(1, 2).float(), slots[on_sign], reduction="none"
    )
    lengths = (slots[on_sign] > 0).sum(1)
    weight = (1 + anchor[on_sign]) * torch.tensor(TEXT_WEIGHTS, device=anchor.device)[lengths]
    weight = weight.unsqueeze(1)
    slot_loss = (slot_loss * weight).sum() / (weight.sum() * SLOTS)
    characters = labels["characters"].long()
    written, empty = (characters > 0) & (characters != IGNORE), characters == 0
    logits = out["characters"].float()
    character_loss = functional.cross_entropy(logits[written], characters[written])
    empty_loss = functional.cross_entropy(logits[empty], characters[empty])
    total = 2 * slot_loss + color_loss + anchor_loss + 0.5 * character_loss + 0.5 * empty_loss
    parts = {"slots": slot_loss, "color": color_loss, "anchor": anchor_loss, "characters": character_loss}
    return total, {name: part.item() for name, part in parts.items()}


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in [-1, 1], as the model's processor makes it."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Exposure, contrast, white balance, a little noise; sometimes a soft focus."""
    batch = len(pixels)

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.rand(batch, channels, 1, 1, generator=generator) * (high - low) + low

    pixels = pixels * draw(0.8, 1.15) * draw(0.95, 1.05, 3) + draw(-0.12, 0.12)
    if float(torch.rand(1, generator=generator)) < 0.2:
        pixels = 0.5 * pixels + 0.5 * functional.avg_pool2d(pixels, 3, 1, 1)
    pixels = pixels + draw(0, 0.05) * torch.randn(pixels.shape, generator=generator)
    return pixels.clamp_(-1, 1)


def load_shards(folder: pathlib.Path, known: dict[str, dict[str, Tensor]]) -> None:
    """Adds the shards that have appeared since the last look; pairs count as three views each."""
    for path in sorted(folder.glob("[0-9]*.npz")):
        if path.name.endswith(".part.npz") or path.name in known:
            continue
        with np.load(path) as shard:
            fields = {field: torch.from_numpy(shard[field]) for field in FIELDS}
        known[path.name] = {
            f: v.flatten(0, 1) if fields["images"].ndim == 5 else v for f, v in fields.items()
        }


def draw_views(
    tower: dict[str, dict[str, Tensor]],
    pairs: dict[str, dict[str, Tensor]],
    count: int,
    random: torch.Generator,
) -> dict[str, Tensor]:
    """A batch from four shards: the tower's own and, once there are any, half from scenes and crops."""
    chosen = []
    for _ in range(4):
        source = pairs if pairs and float(torch.rand(1, generator=random)) < SCENES_SHARE else tower
        shard = list(source.values())[int(torch.randint(len(source), (1,), generator=random))]
        rows = torch.randint(len(shard["images"]), (count // 4,), generator=random)
        chosen.append({field: values[rows] for field, values in shard.items()})
    return {field: torch.cat([part[field] for part in chosen]) for field in FIELDS}


@torch.no_grad()
def evaluate(tower: Tower, heads: Heads, shard: dict[str, Tensor]) -> dict[str, float]:
    """Accuracies on held-out views: whole signs, characters and colours at the cell of each sign's centre."""
    tower.eval()
    counts = np.zeros(5)
    for start in range(0, len(shard["images"]), 32):
        part = {field: values[start : start + 32].to(tower.device) for field, values in shard.items()}
        out = heads(*tower.features(to_pixels(part["images"])))
        anchor = part["anchor"].flatten(1) > 0
        truth, guess = part["slots"].flatten(1, 2)[anchor].long(), out["slots"].argmax(-1)[anchor]
        counts += (
            len(truth),
            int((truth == guess).all(1).sum()),
            int(((truth == guess) & (truth > 0)).sum()) / max(int((truth > 0).sum()), 1) * len(truth),
            int((out["color"].argmax(-1)[anchor] == part["color"].flatten(1)[anchor]).sum()),
            int(((out["anchor"] > 0) == anchor).all(1).sum()) / len(anchor) * len(truth),
        )
    tower.train()
    signs, read, characters, color, anchors = counts.tolist()
    return {
        "signs": signs,
        "read": read / signs,
        "characters": characters / signs,
        "color": color / signs,
        "all_anchors": anchors / signs,
    }


def fit_heads(tower: Tower, heads: Heads, draw: Callable[[], dict[str, Tensor]], steps: int = 200) -> float:
    """New heads for a tower that is trained already; returns the last loss. `draw` gives a batch of views."""
    tower.eval()
    optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-2, weight_decay=0.0)
    loss = torch.zeros(())
    for step in range(steps):
        part = draw()
        with torch.no_grad():
            cells, fine = tower.features(to_pixels(part["images"]).to(tower.device))
        labels = {field: values.to(tower.device) for field, values in part.items()}
        loss, _parts = dense_loss(heads(cells, fine), labels)
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, peak=1e-2, warmup=10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tower.train()
    return loss.item()


def train(
    root: pathlib.Path,
    *,
    steps: int = 1900,
    batch: int = 32,
    peak: float = 2e-3,
    matrix_lr: float = 0.02,
    seed: int = 1,
    start: pathlib.Path | None = None,
) -> None:
    """`start`: a model directory (`training.export`) whose tower is trained on, instead of a new one."""
    device, autocast, reason = pick_device()
    torch.manual_seed(seed)
    tower = Tower(TowerConfig()).to(memory_format=torch.channels_last)
    heads = Heads(192, 128)
    both = nn.ModuleList([tower, heads]).to(device)
    optimizer = Optimizers(tower, rest=[*heads.parameters()], matrix_lr=matrix_lr, lr=peak)
    checkpoint = root / "tower.pt"
    first = load_checkpoint(checkpoint, {"tower": tower, "heads": heads}, optimizer)
    journal = Journal(root, "tower", steps, first_step=first)
    journal.write("start", first, device=reason, steps=steps, batch=batch, seed=seed)
    shards: dict[str, dict[str, Tensor]] = {}
    pairs: dict[str, dict[str, Tensor]] = {}
    held_out: dict[str, dict[str, Tensor]] = {}
    load_shards(root / "tower_eval", held_out)
    random = torch.Generator().manual_seed(seed + first)
    if start is not None and first == 0:
        load_tower(tower, exported_parts(start)["tower"])
        load_shards(root / "tower", shards)
        loss = fit_heads(tower, heads, lambda: draw_views(shards, pairs, batch, random))
        journal.write("heads", 0, loss=loss, **{n: evaluate(tower, heads, s) for n, s in held_out.items()})
    for step in range(first, steps):
        if step % 100 == 0 or not shards:
            load_shards(root / "tower", shards)
            load_shards(root / "pairs", pairs)
        part = draw_views(shards, pairs, batch, random)
        pixels = augment(to_pixels(part["images"]), random).to(device, memory_format=torch.channels_last)
        labels = {field: values.to(device) for field, values in part.items() if field != "images"}
        optimizer.scale(cosine(step, steps, peak=1.0))
        with torch.autocast(device.type, autocast):
            out = heads(*tower.features(pixels))
        loss, parts = dense_loss(out, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 2.0)
        optimizer.step()
        if (step + 1) % 20 == 0:
            journal.progress(step + 1, loss=loss.item(), **parts)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save_checkpoint(checkpoint, step + 1, {"tower": tower, "heads": heads}, optimizer)
            journal.write(
                "evaluation",
                step + 1,
                loss=loss.item(),
                **{n: evaluate(tower, heads, s) for n, s in held_out.items()},
            )
