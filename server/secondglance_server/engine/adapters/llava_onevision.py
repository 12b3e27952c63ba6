"""LLaVA-OneVision: every picture as in its multi-image mode, one padded square and a newline.

Its single-image mode adds tiles of the full resolution. The server holds no such picture and the second stage
has two images, so both stages use the mode that the model was trained on for several: their prefixes are the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from secondglance_server.engine.adapters.base import TransformersAdapter, padded_content
from secondglance_server.engine.adapters.protocol import ImageLayout, Pixels, VisualFeatures


class LlavaOnevisionAdapter(TransformersAdapter):
    model_types = ("llava_onevision",)
    read_layer = (22, 28)
    read_layer_origin = "ViCrop's layer for Qwen2.5-VL-7B (22 of 28), whose decoder this one's resembles"

    @classmethod
    def load_image_processor(cls, source: str, config: Any) -> Any:
        # the family's own processor tiles single pictures; LLaVA's does its multi-image steps for one
        return LlavaImageProcessorPil.from_pretrained(source, do_pad=True, do_center_crop=False)

    def layout(self, width: int, height: int) -> ImageLayout:
        patch = int(self.config.vision_config.patch_size)
        cells = self.side // patch
        return ImageLayout(
            text=self.tokenizer.convert_ids_to_tokens(self.image_token_id),
            run=cells * cells + 1,  # the newline
            rows=cells,
            cols=cells,
            content=padded_content(width, height, covered=cells * patch / self.side),
        )

    def encode(self, pictures: Sequence[Pixels]) -> list[VisualFeatures]:
        pixel_values = self.upload(torch.cat([picture["pixel_values"] for picture in pictures]))
        features = self.model.get_image_features(
            pixel_values,
            image_sizes=torch.full((len(pictures), 2), self.side),
            batch_num_images=torch.tensor([max(2, len(pictures))]),  # more than one: no tiles
            return_dict=True,
        ).pooler_output
        return [VisualFeatures(tokens) for tokens in features]
