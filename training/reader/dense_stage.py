"""Stage 3: the dense grid learns where signs are and their colours, on photographs and drawn backgrounds."""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from secondglance_server.engine.reader.tower import CLASSES, COARSE, FINE, DenseNet, ReaderTowerConfig
from training.journal import Journal, cosine, load_checkpoint, save_checkpoint
from training.muon import Optimizers
from training.reader.drawing.views import IGNORED, dense_labels, load_records, padded_pixels
from training.reader.records import THUMB_PX, View

STEPS = 6000
_HELD_BACK = 400  # views of the last records, never trained on
_SHIFTED = 0.5  # of the batches
_MOST_SHIFT = 3  # coarse cells
_GREY = 127 / 127.5 - 1  # what a picture is padded with


class DenseData:
    """All views' pixels and labels in memory."""

    def __init__(self, views: list[View]) -> None:
        self.pixels = np.stack([padded_pixels(view) for view in views])
        labels = [dense_labels(view) for view in views]
        self.fine = np.stack([fine for fine, _ in labels])
        self.coarse = np.stack([coarse for _, coarse in labels])

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(
        self, rows: NDArray[np.int64], rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels, fine and coarse labels; with `rng`, mirrored and in other light."""
        pixels = torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
        fine, coarse = torch.from_numpy(self.fine[rows]), torch.from_numpy(self.coarse[rows])
        if rng is None:
            return pixels, fine, coarse
        if rng.random() < 0.5:
            pixels, fine, coarse = pixels.flip(3), fine.flip(2), coarse.flip(2)
        gain = torch.from_numpy(rng.uniform(0.85, 1.1, (len(rows), 1, 1, 1))).float()
        tint = torch.from_numpy(rng.uniform(0.95, 1.05, (len(rows), 3, 1, 1))).float()
        shift = torch.from_numpy(rng.uniform(-0.08, 0.08, (len(rows), 1, 1, 1))).float()
        pixels = (((pixels + 1) * gain * tint - 1) + shift).clamp(-1, 1)
        if rng.random() >= _SHIFTED:
            return pixels, fine, coarse
        dx, dy = (int(rng.integers(-_MOST_SHIFT, _MOST_SHIFT + 1)) for _ in range(2))
        nothing = CLASSES - 1
        cell = THUMB_PX // COARSE
        return (
            moved(pixels, dx * cell, dy * cell, _GREY),
            moved(fine, dx * (FINE // COARSE), dy * (FINE // COARSE), nothing),
            moved(coarse, dx, dy, nothing),
        )


def moved(values: Tensor, dx: int, dy: int, fill: float) -> Tensor:
    """Return [..., H, W] moved right by `dx` and down by `dy`; what comes in is `fill`."""
    height, width = values.shape[-2:]
    result = torch.full_like(values, fill)
    result[..., max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = values[
        ..., max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)
    ]
    return result


def dense_loss(net: DenseNet, pixels: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
    """Return cross-entropy of both maps; cells with a sign count more, as there are few of them."""
    weights = torch.full((CLASSES,), 2.0)
    weights[-1] = 1.0
    _, colors, _, centers = net(pixels)
    loss = functional.cross_entropy(colors, fine, weights, ignore_index=IGNORED)
    return loss + functional.cross_entropy(centers, coarse, weights)


@torch.no_grad()
def evaluate(net: DenseNet, data: DenseData) -> dict[str, float]:
    """Return the share of right colours on signs, of right empty cells, and of pictures counted right."""
    net.eval()
    pixels, fine, coarse = data.batch(np.arange(len(data)), None)
    seen = [net(part) for part in pixels.split(100)]
    colors, centers = (torch.cat([maps[place] for maps in seen]) for place in (1, 3))
    net.train()
    best, on_sign, empty = colors.argmax(1), (fine >= 0) & (fine < CLASSES - 1), fine == CLASSES - 1
    counted = (centers.argmax(1) < CLASSES - 1).sum((1, 2))
    true = (coarse < CLASSES - 1).sum((1, 2))
    return {
        "color": float((best == fine)[on_sign].float().mean()),
        "empty": float((best == fine)[empty].float().mean()),
        "count": float((counted == true).float().mean()),
    }


def train(
    root: pathlib.Path, scenes: pathlib.Path, unread: pathlib.Path | None = None, *, steps: int = STEPS,
    batch: int = 32, seed: int = 3, until: int | None = None,
) -> None:  # fmt: skip
    """Train on the views of `scenes` and of `unread`, whose text nobody read."""
    torch.manual_seed(seed)
    folders = [folder for folder in (unread, scenes) if folder]  # what is held back is of `scenes`
    views = [view for folder in folders for record in load_records(folder) for view in record.views]
    data, kept = DenseData(views[:-_HELD_BACK]), DenseData(views[-_HELD_BACK:])
    config = ReaderTowerConfig()
    net = DenseNet(config.fine_channels, config.coarse_channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Optimizers(net, rest=[], matrix_lr=0.02, lr=2e-3)
    checkpoint = root / "dense.pt"
    first = load_checkpoint(checkpoint, {"dense": net}, optimizer)
    journal = Journal(root, "dense", steps, first_step=first)
    journal.write("start", first, steps=steps, batch=batch, seed=seed, views=len(data))
    last = until or steps
    for step in range(first, last):
        rng = np.random.default_rng([seed, step])
        rows = rng.integers(0, len(data), batch)
        optimizer.scale(cosine(step, steps, peak=1.0))
        pixels, fine, coarse = data.batch(rows, rng)
        with torch.autocast("cpu", torch.bfloat16):  # a third of the time
            loss = dense_loss(net, pixels.contiguous(memory_format=torch.channels_last), fine, coarse)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            journal.progress(step + 1, loss=loss.item())
        if (step + 1) % 200 == 0 or step + 1 == last:
            journal.write("evaluation", step + 1, loss=loss.item(), **evaluate(net, kept))
            save_checkpoint(checkpoint, step + 1, {"dense": net}, optimizer)
