"""InternVL (2.5 and 3, transformers' own port): one squashed square, its patches merged by pixel shuffle.

Its tiles of large pictures are off: the global image is no larger than one tile, and the second stage sends
the region.
"""

from __future__ import annotations

from typing import Any

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.adapters.protocol import ImageLayout


class InternVLAdapter(TransformersAdapter):
    model_types = ("internvl",)
    placeholder = "<IMG_CONTEXT>"
    read_layer = (22, 28)
    read_layer_origin = "ViCrop's layer for Qwen2.5-VL-7B (22 of 28), whose decoder this one's resembles"

    @classmethod
    def load_image_processor(cls, source: str, config: Any) -> Any:
        return GotOcr2ImageProcessorPil.from_pretrained(source, crop_to_patches=False)

    def layout(self, width: int, height: int) -> ImageLayout:
        patch = self.config.vision_config.patch_size
        cells = self.side // int(patch[0] if isinstance(patch, (list, tuple)) else patch)
        cells = int(cells * self.config.downsample_ratio)
        return ImageLayout(text=f"<img>{self.placeholder}</img>", run=cells * cells, rows=cells, cols=cells)
