"""Qwen2.5-VL: pictures keep their aspect ratio, positions have three axes.

A picture becomes as many merged patches as its size asks for, up to a budget: the encoder takes far more, but
each token is paid for in uplink, and details are what the second stage is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.adapters.protocol import ImageLayout
from secondglance_server.engine.protocol import EncoderBudget

TOKENS_PER_PICTURE = 576  # as many as LLaVA-1.5 spends on one
_MAX_SIDE = 4096


class Qwen25VLAdapter(TransformersAdapter):
    model_types = ("qwen2_5_vl",)
    placeholder = "<|image_pad|>"
    read_layer = (22, 28)
    read_layer_origin = "ViCrop's layer for Qwen2.5-VL-7B (22 of 28)"

    @classmethod
    def load_image_processor(cls, source: str, config: Any) -> Any:
        processor: Any = Qwen2VLImageProcessorPil.from_pretrained(source)
        budget = TOKENS_PER_PICTURE * (processor.patch_size * processor.merge_size) ** 2
        longest = min(int(processor.size["longest_edge"]), budget)
        shortest = min(int(processor.size["shortest_edge"]), longest)
        processor.size = {"shortest_edge": shortest, "longest_edge": longest}
        return processor

    def budget(self) -> EncoderBudget:
        return EncoderBudget(_MAX_SIDE, _MAX_SIDE, int(self.image_processor.size["longest_edge"]))

    def base_side(self) -> int:
        return 224  # ViCrop's for Qwen2.5-VL

    def pixels(self, rgb: Any) -> dict[str, Tensor]:
        inputs = self.image_processor(self.as_image(rgb), return_tensors="pt")
        return {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}

    def layout(self, width: int, height: int) -> ImageLayout:
        processor = self.image_processor
        cell = processor.patch_size * processor.merge_size  # pixels
        resized_height, resized_width = smart_resize(
            height,
            width,
            factor=cell,
            min_pixels=processor.size["shortest_edge"],
            max_pixels=processor.size["longest_edge"],
        )
        rows, cols = resized_height // cell, resized_width // cell
        return ImageLayout(text=self.placeholder, run=rows * cols, rows=rows, cols=cols)

    def positions(self, ids: Sequence[int], layouts: Sequence[ImageLayout]) -> Tensor:
        """[3, tokens]: time, row, column. Text counts all three up; a picture spans its longer side only."""
        whole = torch.tensor(ids)
        is_image = whole == self.image_token_id
        text = torch.arange(len(ids)).expand(3, -1).clone()
        starts = (is_image & ~is_image.roll(1)).nonzero()[:, 0].tolist()
        for start, layout in zip(starts, layouts, strict=True):
            end = start + layout.run
            first = int(text[0, start])
            cells = torch.cartesian_prod(torch.arange(layout.rows), torch.arange(layout.cols)).T
            text[0, start:end] = first
            text[1:, start:end] = first + cells
            text[:, end:] += first + max(layout.rows, layout.cols) - int(text[0, end])
        return text
