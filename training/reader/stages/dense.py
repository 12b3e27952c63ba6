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
    half_size,
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
SCALES_STEPS = 1500
_TEXT_WEIGHT = 0.3
_HELD_BACK = 400  # views of the last records, never trained on
_EVALUATED = 500  # steps: it looks at all views that are held back
_SHIFTED = 0.5  # of the batches
_MOST_SHIFT = 3  # coarse cells
_GREY = 127 / 127.5 - 1  # what a picture is padded with


Maps = tuple[Tensor, Tensor, Tensor]  # logits of colours, coarse features, logits of centres


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
        pixels = torch.from_numpy(seen).permute(0, 3, 1, 2)
        fine, coarse, text = (torch.from_numpy(maps[rows]) for maps in (self.fine, self.coarse, self.text))
        if rng is None:
            return pixels.float() / 127.5 - 1, Labels(fine, coarse, text)
        if rng.random() < 0.5:
            pixels, fine, coarse, text = pixels.flip(3), fine.flip(2), coarse.flip(2), text.flip(2)
        gain, tint, shift = (
            torch.from_numpy(rng.uniform(low, high, (len(rows), channels, 1, 1))).float()
            for low, high, channels in ((0.85, 1.1, 1), (0.95, 1.05, 3), (-0.08, 0.08, 1))
        )
        # in place: each pass over a batch's pixels takes as long as a convolution
        pixels = pixels.float().mul_(gain * tint / 127.5).add_(shift - 1).clamp_(-1, 1)
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


def sign_loss(maps: Maps, labels: Labels) -> Tensor:
    """Return cross-entropy of colours and centres; cells with a sign count more, as there are few of them."""
    weights = torch.full((CLASSES,), 2.0)
    weights[-1] = 1.0
    colors, _, centers = maps
    loss = functional.cross_entropy(colors, labels.fine, weights, ignore_index=IGNORED)
    return loss + functional.cross_entropy(centers, labels.coarse, weights)


@torch.no_grad()
def evaluate(see: Callable[[Tensor], Maps], data: DenseData) -> dict[str, float]:
    """Return the share of right colours on signs, of right empty cells, and of pictures counted right."""
    parts = np.split(np.arange(len(data)), range(100, len(data), 100))
    seen = [see(data.batch(rows, None)[0]) for rows in parts]
    best, centers = (torch.cat([maps[place] for maps in seen]).argmax(1) for place in (0, 2))
    fine, coarse = torch.from_numpy(data.fine), torch.from_numpy(data.coarse)
    on_sign, empty = (fine >= 0) & (fine < CLASSES - 1), fine == CLASSES - 1
    counted, true = ((maps < CLASSES - 1).sum((1, 2)) for maps in (centers, coarse))
    return {
        "color": float((best == fine)[on_sign].float().mean()),
        "empty": float((best == fine)[empty].float().mean()),
        "count": float((counted == true).float().mean()),
    }


def train(
    root: pathlib.Path, scenes: pathlib.Path, *, steps: int = STEPS, batch: int = 32, seed: int = 3,
    until: int | None = None,
) -> None:  # fmt: skip
    """Train the net on the views of `scenes`, whose text nobody need have read."""
    torch.manual_seed(seed)
    net = _new_net()

    def see(pixels: Tensor) -> Maps:
        _, colors, coarse, centers = net(half_size(pixels).contiguous(memory_format=torch.channels_last))
        return colors, coarse, centers

    _fit("dense", {"dense": net}, see, sign_loss, root, _data(scenes), steps, batch, seed, until)


def train_scales(
    root: pathlib.Path, scenes: pathlib.Path, *, steps: int = SCALES_STEPS, batch: int = 32, seed: int = 5,
    until: int | None = None,
) -> None:  # fmt: skip
    """Train what joins both sizes, on the same views."""
    torch.manual_seed(seed)
    net, config = _new_net().eval().requires_grad_(False), ReaderTowerConfig()
    load_checkpoint(root / "dense.pt", {"dense": net})
    scales = Scales(config.fine_channels, config.coarse_channels)
    text_head = nn.Conv2d(config.coarse_channels, 1, 1)  # only for training

    def see(pixels: Tensor) -> Maps:
        full = pixels.contiguous(memory_format=torch.channels_last)
        result: Maps = scales(net(half_size(full)), net(full))
        return result

    def loss(maps: Maps, labels: Labels) -> Tensor:
        text = text_head(maps[1]).squeeze(1)
        missed = functional.binary_cross_entropy_with_logits(text, labels.text)
        return sign_loss(maps, labels) + _TEXT_WEIGHT * missed

    modules = {"scales": scales, "text_head": text_head}
    _fit("scales", modules, see, loss, root, _data(scenes), steps, batch, seed, until)


def _fit(
    stage: str,
    modules: dict[str, nn.Module],
    see: Callable[[Tensor], Maps],
    loss_of: Callable[[Maps, Labels], Tensor],
    root: pathlib.Path,
    all_data: tuple[DenseData, DenseData],
    steps: int,
    batch: int,
    seed: int,
    until: int | None,
) -> None:
    """Train `modules`, of which `stage` names the one that is kept, from the last checkpoint on."""
    module, (data, kept) = modules[stage], all_data
    rest = [p for name, other in modules.items() if name != stage for p in other.parameters()]
    optimizer = Optimizers(module, rest=rest, matrix_lr=0.02, lr=2e-3)
    checkpoint = root / f"{stage}.pt"
    first = load_checkpoint(checkpoint, modules, optimizer)
    journal = Journal(root, stage, steps, first_step=first)
    journal.write("start", first, steps=steps, batch=batch, seed=seed, views=len(data))
    last = until or steps
    for step in range(first, last):
        rng = np.random.default_rng([seed, step])
        pixels, labels = data.batch(rng.integers(0, len(data), batch), rng)
        with torch.autocast("cpu", torch.bfloat16):  # a third of the time
            loss = loss_of(see(pixels), labels)
        optimizer.scale(cosine(step, steps, peak=1.0))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 2.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            journal.progress(step + 1, loss=loss.item())
        if (step + 1) % _EVALUATED == 0 or step + 1 == last:
            module.eval()
            journal.write("evaluation", step + 1, loss=loss.item(), **evaluate(see, kept))
            module.train()
        if (step + 1) % 200 == 0 or step + 1 == last:
            save_checkpoint(checkpoint, step + 1, modules, optimizer)


def _data(scenes: pathlib.Path) -> tuple[DenseData, DenseData]:
    views = [view for record in load_records(scenes) for view in record.views]
    return DenseData(views[:-_HELD_BACK]), DenseData(views[-_HELD_BACK:])


def _new_net() -> DenseNet:
    config = ReaderTowerConfig()
    net = DenseNet(config.fine_channels, config.coarse_channels)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
