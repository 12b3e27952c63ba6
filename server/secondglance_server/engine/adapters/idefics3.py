"""Idefics3 and SmolVLM (1 and 2): one squashed square, its patches merged by pixel shuffle.

Splitting large pictures into tiles is off: the global image is no larger than one tile, and the second stage
sends the region.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.adapters.protocol import ImageLayout


class Idefics3Adapter(TransformersAdapter):
    model_types = ("idefics3", "smolvlm")

    @classmethod
    def load_image_processor(cls, source: str, config: Any) -> Any:
        side = config.vision_config.image_size
        return Idefics3ImageProcessorPil.from_pretrained(
            source,
            do_image_splitting=False,
            size={"longest_edge": side},
            max_image_size={"longest_edge": side},  # a tile; models are saved with other sides than theirs
        )

    def pixels(self, rgb: Any) -> dict[str, Tensor]:
        inputs = self.image_processor(self.as_image(rgb), return_tensors="pt")
        return {name: inputs[name] for name in ("pixel_values", "pixel_attention_mask")}

    def layout(self, width: int, height: int) -> ImageLayout:
        vision = self.config.vision_config
        cells = vision.image_size // vision.patch_size // self.config.scale_factor
        # patches that do not fill the side leave its last pixels outside the grid
        end = vision.image_size / (cells * self.config.scale_factor * vision.patch_size)
        around = "<fake_token_around_image>"
        text = f"{around}<global-img>{self.placeholder}{around}"
        return ImageLayout(text=text, run=cells * cells, rows=cells, cols=cells, content=(0.0, 0.0, end, end))
