"""Stage 3: the dense grid learns where signs are and their colours, on photographs and drawn backgrounds.

First the net, on views at half size; then, with the net frozen, `Scales`, which joins what it sees at half
and at full size. The joined features also learn where text stands, so that they carry it to the decoder.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from secondglance_server.engine.reader.tower import (
    CLASSES,
    COARSE,
    FINE,
    DenseNet,
    ReaderTowerConfig,
    Scales,
    scale_inputs,
)
from training.journal import Journal, cosine, load_checkpoint, save_checkpoint
from training.muon import Optimizers
from training.reader.drawing.views import (
    IGNORED,
    dense_labels,
    load_records,
    padded_pixels,
    text_labels,
)
from training.reader.records import THUMB_PX, View

STEPS = 6000
SCALES_STEPS = 4000
_TEXT_WEIGHT = 0.3
_HELD_BACK = 400  # views of the last records, never trained on
_SHIFTED = 0.5  # of the batches
_MOST_SHIFT = 3  # coarse cells
_GREY = 127 / 127.5 - 1  # what a picture is padded with


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """`fine` [B, 24, 24] and `coarse` [B, 12, 12] classes; `text` [B, 12, 12]: 1 where text stands."""

    fine: Tensor
    coarse: Tensor
    text: Tensor


class DenseData:
    """All views' thumbnails and labels in memory."""

    def __init__(self, views: list[View]) -> None:
        self._views = views
        labels = [dense_labels(view) for view in views]
        self.fine = np.stack([fine for fine, _ in labels])
        self.coarse = np.stack([coarse for _, coarse in labels])
        self.text = np.stack([text_labels(view) for view in views])

    def __len__(self) -> int:
        return len(self._views)

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator | None) -> tuple[Tensor, Labels]:
        """Return pixels [B, 3, 384, 384] and labels; with `rng`, mirrored, moved and in other light."""
        seen = np.stack([padded_pixels(self._views[row]) for row in rows])
        pixels = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 127.5 - 1
        fine, coarse, text = (torch.from_numpy(maps[rows]) for maps in (self.fine, self.coarse, self.text))
        if rng is None:
            return pixels, Labels(fine, coarse, text)
        if rng.random() < 0.5:
            pixels, fine, coarse, text = pixels.flip(3), fine.flip(2), coarse.flip(2), text.flip(2)
        gain = torch.from_numpy(rng.uniform(0.85, 1.1, (len(rows), 1, 1, 1))).float()
        tint = torch.from_numpy(rng.uniform(0.95, 1.05, (len(rows), 3, 1, 1))).float()
        shift = torch.from_numpy(rng.uniform(-0.08, 0.08, (len(rows), 1, 1, 1))).float()
        pixels = (((pixels + 1) * gain * tint - 1) + shift).clamp(-1, 1)
        if rng.random() >= _SHIFTED:
            return pixels, Labels(fine, coarse, text)
        dx, dy = (int(rng.integers(-_MOST_SHIFT, _MOST_SHIFT + 1)) for _ in range(2))
        nothing = CLASSES - 1
        cell = THUMB_PX // COARSE
        return moved(pixels, dx * cell, dy * cell, _GREY), Labels(
            moved(fine, dx * (FINE // COARSE), dy * (FINE // COARSE), nothing),
            moved(coarse, dx, dy, nothing),
            moved(text, dx, dy, 0.0),
        )


def moved(values: Tensor, dx: int, dy: int, fill: float) -> Tensor:
    """Return [..., H, W] moved right by `dx` and down by `dy`; what comes in is `fill`."""
    height, width = values.shape[-2:]
    result = torch.full_like(values, fill)
    result[..., max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = values[
        ..., max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)
    ]
    return result


def half_size(pixels: Tensor) -> Tensor:
    return functional.avg_pool2d(pixels, 2)


def sign_loss(colors: Tensor, centers: Tensor, labels: Labels) -> Tensor:
    """Return cross-entropy of both maps; cells with a sign count more, as there are few of them."""
    weights = torch.full((CLASSES,), 2.0)
    weights[-1] = 1.0
    loss = functional.cross_entropy(colors, labels.fine, weights, ignore_index=IGNORED)
    return loss + functional.cross_entropy(centers, labels.coarse, weights)


@torch.no_grad()
def evaluate(see: Callable[[Tensor], tuple[Tensor, Tensor]], data: DenseData) -> dict[str, float]:
    """Return the share of right colours on signs, of right empty cells, and of pictures counted right.

    `see`: pixels to the logits of colours and of centres.
    """
    on_sign, right, empty, still, counted = 0, 0, 0, 0, 0
    for start in range(0, len(data), 100):
        pixels, labels = data.batch(np.arange(start, min(start + 100, len(data))), None)
        colors, centers = see(pixels)
        good = colors.argmax(1) == labels.fine
        is_sign, is_empty = (labels.fine >= 0) & (labels.fine < CLASSES - 1), labels.fine == CLASSES - 1
        on_sign, right = on_sign + int(is_sign.sum()), right + int(good[is_sign].sum())
        empty, still = empty + int(is_empty.sum()), still + int(good[is_empty].sum())
        numbers = [(maps < CLASSES - 1).sum((1, 2)) for maps in (centers.argmax(1), labels.coarse)]
        counted += int((numbers[0] == numbers[1]).sum())
    return {"color": right / on_sign, "empty": still / empty, "count": counted / len(data)}


def train(
    root: pathlib.Path, scenes: pathlib.Path, unread: pathlib.Path | None = None, *, steps: int = STEPS,
    batch: int = 32, seed: int = 3, until: int | None = None,
) -> None:  # fmt: skip
    """Train the net on the views of `scenes` and of `unread`, whose text nobody read."""
    torch.manual_seed(seed)
    data, kept = _data(scenes, unread)
    net = _new_net()
    optimizer = Optimizers(net, rest=[], matrix_lr=0.02, lr=2e-3)
    checkpoint = root / "dense.pt"
    first = load_checkpoint(checkpoint, {"dense": net}, optimizer)
    journal = Journal(root, "dense", steps, first_step=first)
    journal.write("start", first, steps=steps, batch=batch, seed=seed, views=len(data))

    def see(pixels: Tensor) -> tuple[Tensor, Tensor]:
        _, colors, _, centers = net(half_size(pixels).contiguous(memory_format=torch.channels_last))
        return colors, centers

    last = until or steps
    for step in range(first, last):
        rng = np.random.default_rng([seed, step])
        pixels, labels = data.batch(rng.integers(0, len(data), batch), rng)
        with torch.autocast("cpu", torch.bfloat16):  # a third of the time
            loss = sign_loss(*see(pixels), labels)
        optimizer.scale(cosine(step, steps, peak=1.0))
        _learn(net, optimizer, loss)
        if (step + 1) % 50 == 0:
            journal.progress(step + 1, loss=loss.item())
        if (step + 1) % 200 == 0 or step + 1 == last:
            net.eval()
            journal.write("evaluation", step + 1, loss=loss.item(), **evaluate(see, kept))
            net.train()
            save_checkpoint(checkpoint, step + 1, {"dense": net}, optimizer)


def train_scales(
    root: pathlib.Path, scenes: pathlib.Path, unread: pathlib.Path | None = None, *,
    steps: int = SCALES_STEPS, batch: int = 32, seed: int = 5, until: int | None = None,
) -> None:  # fmt: skip
    """Train what joins both sizes, on the same views."""
    torch.manual_seed(seed)
    data, kept = _data(scenes, unread)
    net, config = _new_net().eval().requires_grad_(False), ReaderTowerConfig()
    load_checkpoint(root / "dense.pt", {"dense": net})
    scales = Scales(config.fine_channels, config.coarse_channels)
    text_head = nn.Conv2d(config.coarse_channels, 1, 1)  # only for training
    modules = {"scales": scales, "text_head": text_head}
    optimizer = Optimizers(scales, rest=[*text_head.parameters()], matrix_lr=0.02, lr=2e-3)
    checkpoint = root / "scales.pt"
    first = load_checkpoint(checkpoint, modules, optimizer)
    journal = Journal(root, "scales", steps, first_step=first)
    journal.write("start", first, steps=steps, batch=batch, seed=seed, views=len(data))

    def see(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        full = pixels.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            inputs = scale_inputs(net(half_size(full)), net(full))
        result: tuple[Tensor, Tensor, Tensor] = scales.joined(*inputs)
        return result

    last = until or steps
    for step in range(first, last):
        rng = np.random.default_rng([seed, step])
        pixels, labels = data.batch(rng.integers(0, len(data), batch), rng)
        with torch.autocast("cpu", torch.bfloat16):
            colors, features, centers = see(pixels)
            text = functional.binary_cross_entropy_with_logits(text_head(features).squeeze(1), labels.text)
            loss = sign_loss(colors, centers, labels) + _TEXT_WEIGHT * text
        optimizer.scale(cosine(step, steps, peak=1.0))
        _learn(scales, optimizer, loss)
        if (step + 1) % 50 == 0:
            journal.progress(step + 1, loss=loss.item())
        if (step + 1) % 200 == 0 or step + 1 == last:
            scales.eval()
            journal.write("evaluation", step + 1, loss=loss.item(), **evaluate(lambda p: see(p)[::2], kept))
            scales.train()
            save_checkpoint(checkpoint, step + 1, modules, optimizer)


def _data(scenes: pathlib.Path, unread: pathlib.Path | None) -> tuple[DenseData, DenseData]:
    folders = [folder for folder in (unread, scenes) if folder]  # what is held back is of `scenes`
    views = [view for folder in folders for record in load_records(folder) for view in record.views]
    return DenseData(views[:-_HELD_BACK]), DenseData(views[-_HELD_BACK:])


def _new_net() -> DenseNet:
    config = ReaderTowerConfig()
    net = DenseNet(config.fine_channels, config.coarse_channels)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _learn(module: nn.Module, optimizer: Optimizers, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(module.parameters(), 2.0)
    optimizer.step()
