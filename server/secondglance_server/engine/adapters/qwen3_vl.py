"""Qwen3-VL: as Qwen2.5-VL, and the encoder's inner features go into the decoder's first layers
("DeepStack")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from secondglance_server.engine.adapters.protocol import Chunk, Pixels, VisualFeatures
from secondglance_server.engine.adapters.qwen2_5_vl import Qwen25VLAdapter


class Qwen3VLAdapter(Qwen25VLAdapter):
    model_types = ("qwen3_vl",)

    def encode(self, pictures: Sequence[Pixels]) -> list[VisualFeatures]:
        inputs = {name: self.upload(torch.cat([p[name] for p in pictures])) for name in pictures[0]}
        outputs = self.model.get_image_features(**inputs, return_dict=True)
        deep = zip(*outputs.deepstack_features, strict=True)
        return [
            VisualFeatures(tokens, tuple(layers))
            for tokens, layers in zip(outputs.pooler_output, deep, strict=True)
        ]

    def extra_inputs(self, chunk: Chunk, cache: Any) -> dict[str, Any]:
        if chunk.is_image is None:
            return {}
        layers = zip(*(features.deep for features in chunk.features), strict=True)
        return {
            "visual_pos_masks": chunk.is_image,
            "deepstack_visual_embeds": [torch.cat(layer) for layer in layers],
        }
