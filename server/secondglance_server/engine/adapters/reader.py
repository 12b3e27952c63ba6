"""The model that reads: a text reader's posteriors as image tokens, beside a dense grid.

The reader runs on the host (`pixels`), like an image processor. Slots of a line carry rotary positions of
their own, so that an answer's tokens meet the characters that they copy; the prompt's last token is always
at the same position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.adapters.protocol import Chunk, ImageLayout, Pixels, VisualFeatures
from secondglance_server.engine.protocol import EncoderBudget, GridBox
from secondglance_server.engine.reader.ocr import TextReader
from secondglance_server.engine.reader.slots import ASK_POSITION, START, Slots, content_of, lay_out
from secondglance_server.engine.reader.tower import SLOT_INPUTS
from secondglance_server.engine.reader.vocabulary import CANNOT


@dataclass(frozen=True, slots=True, eq=False)
class ReadFeatures(VisualFeatures):
    """`positions` [run]: the rotary position of each token."""

    positions: Tensor | None = None


class ReaderAdapter(TransformersAdapter):
    model_types = ("secondglance_reader",)
    read_layer = (2, 4)
    read_layer_origin = "the layer that training taught to look (training/reader)"

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, chat_template: str) -> None:
        super().__init__(model, tokenizer, image_processor, chat_template)
        crop = int(self.config.vision_config.crop_size)
        self.patch = EncoderBudget(crop, crop)
        self.off_domain_ids = frozenset(tokenizer.convert_tokens_to_ids(list(CANNOT)))

    @classmethod
    def load_image_processor(cls, source: str, config: Any) -> TextReader:
        """Raises ValueError where one of the reader's packages is missing."""
        try:
            return TextReader(threads=max(min(torch.get_num_threads(), 4), 1))
        except ImportError as exc:
            raise ValueError(
                f"its text reader is not installed ({exc}): pip install 'second-glance-server[reader]'"
            ) from exc

    @property
    def side(self) -> int:
        """The reader's view, larger than the dense grid's."""
        return int(self.config.vision_config.view_size)

    def budget(self) -> EncoderBudget:
        return EncoderBudget(self.side, self.side)

    def layout(self, width: int, height: int) -> ImageLayout:
        vision = self.config.vision_config
        cells = int(vision.image_size // vision.patch_size)
        return ImageLayout(
            text=self.placeholder, run=cells * cells + int(vision.slots), rows=cells, cols=cells,
            content=content_of(width, height),
        )  # fmt: skip

    def pixels(self, rgb: NDArray[np.uint8]) -> Pixels:
        """Read the picture and lay its lines out; the dense grid gets a small padded copy."""
        content = content_of(rgb.shape[1], rgb.shape[0])
        slots = lay_out(self.image_processor.read(rgb), content, slots=int(self.config.vision_config.slots))
        side = int(self.config.vision_config.image_size)
        small = torch.from_numpy(letterboxed(Image.fromarray(rgb), side)).permute(2, 0, 1)[None]
        return {"pixel_values": small.float() / 127.5 - 1, **slot_tensors([slots])}

    def encode(self, pictures: Sequence[Pixels]) -> list[VisualFeatures]:
        inputs = {name: self.upload(torch.cat([p[name] for p in pictures])) for name in pictures[0]}
        positions = inputs.pop("slot_position")
        texts = [_texts(picture) for picture in pictures]
        seen = self.model.model.vision_tower(**inputs).last_hidden_state
        tokens = self.model.model.multi_modal_projector(seen)
        grid = positions.new_full((len(positions), tokens.shape[1] - positions.shape[1]), ASK_POSITION)
        places = torch.cat([grid, positions], dim=1)
        rows = zip(tokens, places, texts, strict=True)
        return [ReadFeatures(row, positions=place, texts=found) for row, place, found in rows]

    def positions(self, ids: Sequence[int], layouts: Sequence[ImageLayout]) -> Tensor:
        """The question ends at ASK_POSITION; the pictures' own come with their features."""
        places = torch.arange(len(ids)) - (len(ids) - 1) + ASK_POSITION
        places = places.clamp(min=1)
        places[0] = 0
        return places[None]

    def extra_inputs(self, chunk: Chunk, cache: Any) -> dict[str, Any]:
        """Positions of the pictures' tokens, and the mark of a second picture."""
        if chunk.is_image is None:
            return {}
        own = [f.positions for f in chunk.features if isinstance(f, ReadFeatures) and f.positions is not None]
        positions = chunk.positions[0].clone()
        positions[chunk.is_image] = torch.cat(own).to(positions)
        run = len(own[0])
        seen_before = 0 if cache.get_seq_length() == 0 else run
        is_second = chunk.is_image & (chunk.is_image.cumsum(dim=1) + seen_before > run)
        mark = self.model.model.vision_tower.second_view.to(chunk.embeddings.dtype)
        return {
            "position_ids": positions,
            "inputs_embeds": chunk.embeddings + is_second.unsqueeze(-1) * mark,
        }


def _texts(picture: Pixels) -> tuple[GridBox, ...]:
    """Return the box of each line that the text reader has found."""
    boxes = picture["slot_corners"][picture["slot_kind"] == START].tolist()
    return tuple((left, top, right, bottom) for left, top, right, bottom in boxes)


def letterboxed(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Return a copy as large as fits, in the middle of a grey square, uint8 [side, side, 3]."""
    fitting = image.copy()
    fitting.thumbnail((side, side), Image.Resampling.BILINEAR)  # never enlarges
    if max(fitting.size) < side:
        fitting = ImageOps.contain(image, (side, side), Image.Resampling.BILINEAR)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(fitting, ((side - fitting.width) // 2, (side - fitting.height) // 2))
    return np.array(square)


def slot_tensors(slots: Sequence[Slots], length: int | None = None) -> dict[str, Tensor]:
    """Return the tower's slot inputs of several pictures, cut to `length` slots, with their positions."""
    names = {name.removeprefix("slot_"): name for name in (*SLOT_INPUTS, "slot_position")}
    return {
        long: torch.from_numpy(np.stack([getattr(s, short)[:length] for s in slots]))
        for short, long in names.items()
    }
