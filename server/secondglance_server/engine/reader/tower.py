"""The vision tower that reads: a dense grid for colour and layout, and slots for what the frozen reader sees.

Text recognition itself runs outside (`ocr`): its posteriors come in as numbers. Importing this module
registers `secondglance_reader_tower` with transformers' Auto classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from secondglance_server.engine.convolution import Convolution, ResidualBlock
from secondglance_server.engine.reader.ocr import MOST_LINES
from secondglance_server.engine.reader.slots import CHARACTER, EMPTY, GEOMETRY, KINDS, SLOTS, START
from secondglance_server.engine.reader.vocabulary import COLORS, SYMBOLS

CLASSES = len(COLORS) + 1  # the last: no sign
FINE, COARSE = 24, 12  # cells of the two maps
MOST_COUNTED = 8
SLOT_INPUTS = (  # beside the pixels
    "slot_ids", "slot_probabilities", "slot_kind", "slot_line", "slot_block", "slot_geometry", "slot_corners",
)  # fmt: skip


class ReaderTowerConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # transformers' hook is unannotated
    """`hidden_size`: of the tokens; `image_size`: the dense grid's view, `patch_size`: of its cells.

    `view_size`, `crop_size`: the longer side of a first picture and of a region, as the reader gets them.
    """

    model_type = "secondglance_reader_tower"

    def __init__(
        self,
        hidden_size: int = 192,
        fine_channels: int = 96,
        coarse_channels: int = 160,
        image_size: int = 384,
        patch_size: int = 32,
        slots: int = SLOTS,
        view_size: int = 448,
        crop_size: int = 640,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.fine_channels = fine_channels
        self.coarse_channels = coarse_channels
        self.image_size = image_size
        self.patch_size = patch_size
        self.slots = slots
        self.view_size = view_size
        self.crop_size = crop_size
        super().__init__(**kwargs)


class DenseNet(nn.Module):
    """[B, 3, S, S] to a fine map of colours (a cell is 8 pixels) and a coarse one of signs (16 pixels)."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            Convolution(3, 32, 2), Convolution(32, 48, 2), Convolution(48, 48), Convolution(48, fine, 2),
            ResidualBlock(fine),
        )  # fmt: skip
        self.colors = nn.Conv2d(fine, CLASSES, 1)
        self.down = nn.Sequential(Convolution(fine, coarse, 2), ResidualBlock(coarse), ResidualBlock(coarse))
        self.centers = nn.Conv2d(coarse, CLASSES, 1)  # the colour of the sign whose centre lies in the cell

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return fine features, colour logits, coarse features and centre logits."""
        fine = self.stem(pixel_values)
        coarse = self.down(fine)
        return fine, self.colors(fine), coarse, self.centers(coarse)


class Seen(NamedTuple):
    """What the dense grid saw of pictures.

    `fine` [B, channels, 24, 24] and `coarse` [B, channels, 12, 12]: features. `colors`: each fine cell's
    colour; `centers`: that of the sign whose centre lies in a coarse cell; both sum to one over the classes.
    `joined` [B, channels, 12, 12]: features of both sizes.
    """

    fine: Tensor
    colors: Tensor
    coarse: Tensor
    centers: Tensor
    joined: Tensor


class Scales(nn.Module):
    """Joins what one dense net sees of a picture at half and at full size.

    Small signs are seen at full size only, large ones as a whole only at half size.
    """

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.fine = Convolution(3 * fine, fine)
        self.colors = nn.Conv2d(fine, CLASSES, 1)
        self.coarse = nn.Sequential(Convolution(3 * coarse + 2 * CLASSES, coarse), ResidualBlock(coarse))
        self.centers = nn.Conv2d(coarse, CLASSES, 1)

    def forward(self, half: Sequence[Tensor], full: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return colour logits, joined features and centre logits from the net's maps of both sizes."""
        fine = torch.cat([half[0], *_pooled(full[0])], dim=1)
        beliefs = half[3].softmax(dim=1), half_size(full[3].softmax(dim=1))
        features = self.coarse(torch.cat([half[2], *_pooled(full[2]), *beliefs], dim=1))
        return self.colors(self.fine(fine)), features, self.centers(features)


def half_size(maps: Tensor) -> Tensor:
    return functional.avg_pool2d(maps, 2)


def _pooled(maps: Tensor) -> tuple[Tensor, Tensor]:
    return half_size(maps), functional.max_pool2d(maps, 2)


class SlotEmbedding(nn.Module):
    """Slots to tokens. The characters' own vectors come from outside: they are the decoder's."""

    def __init__(self, width: int, fine: int) -> None:
        super().__init__()
        std = 0.3
        self.kinds = nn.Parameter(torch.randn(KINDS, width) * std)
        self.lines = nn.Parameter(torch.randn(MOST_LINES, width) * std)
        self.blocks = nn.Parameter(torch.randn(MOST_LINES, width) * std)
        self.colors = nn.Parameter(torch.randn(CLASSES, width) * std)
        self.before = nn.Linear(width, width, bias=False)
        self.before_that = nn.Linear(width, width, bias=False)
        self.geometry = nn.Sequential(nn.Linear(GEOMETRY, 96), nn.GELU(), nn.Linear(96, width))
        self.fine = nn.Linear(fine, width, bias=False)
        nn.init.zeros_(self.fine.weight)

    def forward(
        self, slots: Mapping[str, Tensor], symbols: Tensor, color: Tensor, fine: Tensor | None
    ) -> Tensor:
        """Return [B, N, width].

        `symbols` [SYMBOLS, width]; `color` [B, N, CLASSES]; `fine` [B, N, channels].
        """
        kind = slots["slot_kind"]
        seen = torch.einsum(
            "bnc,bncw->bnw", slots["slot_probabilities"].to(symbols.dtype), symbols[slots["slot_ids"]]
        )
        text = seen * (kind >= CHARACTER).unsqueeze(-1)
        back = functional.pad(text, (0, 0, 1, 0))[:, :-1] * (kind > START).unsqueeze(-1)
        inner = functional.pad(kind > START, (1, 0))[:, :-1] & (kind > START)
        further = functional.pad(back, (0, 0, 1, 0))[:, :-1] * inner.unsqueeze(-1)
        tokens = self.kinds[kind] + text + self.before(back) + self.before_that(further)
        of_line = self.lines[slots["slot_line"]] + self.blocks[slots["slot_block"]] + color @ self.colors
        of_line = of_line + self.geometry(slots["slot_geometry"].to(symbols.dtype))
        if fine is not None:
            of_line = of_line + self.fine(fine)
        result: Tensor = tokens + of_line * (kind != EMPTY).unsqueeze(-1)
        return result


def at_lines(maps: Tensor, corners: Tensor) -> Tensor:
    """Return a map's mean [B, N, channels] at five points of each slot's line.

    `corners` [B, N, 4] in [0, 1].
    """
    x0, y0, x1, y1 = corners.unbind(-1)
    y = (y0 + y1) / 2
    xs = torch.stack([x0 + (x1 - x0) * share for share in (0.1, 0.3, 0.5, 0.7, 0.9)], dim=-1)
    points = torch.stack([xs, y.unsqueeze(-1).expand_as(xs)], dim=-1) * 2 - 1
    sampled = functional.grid_sample(maps, points.to(maps.dtype), align_corners=False, padding_mode="border")
    return sampled.mean(dim=-1).transpose(1, 2)


def counted(centered: Tensor) -> Tensor:
    """Return how many signs have been seen up to each cell, row by row.

    [B, cells, MOST_COUNTED + 1]: near one at the number, falling to both sides. `centered` as in `assembled`.
    """
    so_far = (1 - centered[:, -1]).flatten(1).cumsum(dim=1)
    numbers = torch.arange(MOST_COUNTED + 1, device=so_far.device)
    return torch.exp(-2 * (so_far.unsqueeze(-1) - numbers) ** 2)


class ReaderTower(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers' hook is unannotated
    """Pixels and slots to [B, cells + slots, hidden_size]: the grid row by row, then the slots."""

    config_class = ReaderTowerConfig
    base_model_prefix = "reader_tower"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # transformers' own models give tuples
    _supports_sdpa = True

    def __init__(self, config: ReaderTowerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.dense = DenseNet(config.fine_channels, config.coarse_channels)
        self.scales = Scales(config.fine_channels, config.coarse_channels)
        self.slots = SlotEmbedding(width, config.fine_channels)
        self.cells = nn.Linear(config.coarse_channels, width)
        self.joined_cells = nn.Linear(config.coarse_channels, width, bias=False)
        nn.init.zeros_(self.joined_cells.weight)
        self.cell_colors = nn.Linear(4 * CLASSES, width, bias=False)
        self.cell_centers = nn.Linear(CLASSES, width, bias=False)  # so that signs are counted by attending
        nn.init.zeros_(self.cell_centers.weight)
        self.cell_counts = nn.Linear(MOST_COUNTED + 1, width, bias=False)
        nn.init.zeros_(self.cell_counts.weight)
        self.places = nn.Parameter(torch.randn(COARSE * COARSE, width) * 0.3)
        self.symbols = nn.Parameter(torch.randn(len(SYMBOLS), width) * 0.3)
        self.second_view = nn.Parameter(torch.randn(width) * 0.3)  # added to a patch's tokens
        self.post_init()  # type: ignore[no-untyped-call]  # unannotated in transformers

    def _init_weights(self, module: nn.Module) -> None:
        """Keeps torch's own initialisation."""

    def tokens(
        self, pixel_values: Tensor, slots: Mapping[str, Tensor], symbols: Tensor | None = None
    ) -> Tensor:
        """Return the tokens; `symbols` replaces the tower's own copy of the decoder's characters."""
        return self.assembled(self.see(pixel_values), slots, symbols)

    def see(self, pixel_values: Tensor) -> Seen:
        """Return what the dense net sees at half and at full size, joined."""
        half, full = self.dense(half_size(pixel_values)), self.dense(pixel_values)
        colors, joined, centers = self.scales(half, full)
        return Seen(half[0], colors.softmax(dim=1), half[2], centers.softmax(dim=1), joined)

    def assembled(self, seen: Seen, slots: Mapping[str, Tensor], symbols: Tensor | None = None) -> Tensor:
        """Return the tokens of what the dense net saw."""
        fine, believed, coarse, centered, joined = seen
        corners = slots["slot_corners"]
        symbols = self.symbols if symbols is None else symbols
        read = self.slots(slots, symbols, at_lines(believed, corners), at_lines(fine, corners))
        grid = self.cells(coarse.flatten(2).transpose(1, 2))
        grid = grid + self.joined_cells(joined.flatten(2).transpose(1, 2))
        finer = functional.pixel_unshuffle(believed, FINE // COARSE).flatten(2).transpose(1, 2)
        centers = self.cell_centers(centered.flatten(2).transpose(1, 2))
        grid = grid + self.cell_colors(finer) + centers + self.cell_counts(counted(centered)) + self.places
        return torch.cat([grid, read], dim=1)

    def forward(self, pixel_values: Tensor, **slots: Any) -> BaseModelOutput:
        tokens = self.tokens(pixel_values, slots)
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


AutoConfig.register(ReaderTowerConfig.model_type, ReaderTowerConfig)
AutoModel.register(ReaderTowerConfig, ReaderTower)
