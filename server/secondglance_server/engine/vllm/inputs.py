"""A request in vLLM's words: our own token ids, our own pixels, the picture's key as its name in the cache.

vLLM would render and preprocess prompts itself; questions that spell control tokens and pictures at the edge
of a crop would then come out different. So it is given finished input: ids with every image token in place,
and what the family's processor makes of each picture. The key names content and tenant, so that nobody finds
another tenant's picture in the prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.multimodal.inputs import MultiModalKwargsItem, MultiModalKwargsItems, PlaceholderRange

from secondglance_server.engine.adapters.protocol import ImageLayout
from secondglance_server.engine.prompt import Prompt
from secondglance_server.engine.protocol import AnswerRequest, EngineError, Picture
from secondglance_server.engine.vllm.front import Front


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """`engine_input`: what vLLM takes. `layout`: of the global picture."""

    engine_input: Any
    prompt: Prompt
    layout: ImageLayout


class InputBuilder:
    """Prepares requests; may be called from any thread."""

    def __init__(self, front: Front, processor: Any) -> None:
        """`processor`: vLLM's for this model, asked only how its model's arguments are batched."""
        self._front = front
        self._processor = processor

    def prepare(self, request: AnswerRequest) -> Prepared:
        """Raises EngineError for a size that the family's processor refuses."""
        adapter = self._front.adapter
        pictures = [request.picture] + ([request.patch] if request.patch else [])
        try:
            layouts = [adapter.layout(p.rgb.shape[1], p.rgb.shape[0]) for p in pictures]
        except ValueError as exc:
            raise EngineError(str(exc)) from exc
        prompt = self._front.prompts.build(request.question, layouts)
        engine_input = {
            "type": "multimodal",
            "prompt_token_ids": prompt.ids,
            "mm_kwargs": MultiModalKwargsItems({"image": [self._arguments(p) for p in pictures]}),
            "mm_hashes": {"image": [picture.key for picture in pictures]},
            "mm_placeholders": {"image": image_ranges(prompt.ids, adapter.image_token_id)},
        }
        return Prepared(engine_input, prompt, layouts[0])

    def _arguments(self, picture: Picture) -> MultiModalKwargsItem:
        """One picture as the model's arguments, each with vLLM's rule for batching it."""
        pixels = dict(self._front.adapter.pixels(picture.rgb))
        if self._front.model_impl == "transformers":
            pixels["num_image_patches"] = torch.tensor([len(pixels["pixel_values"])])
        features = BatchFeature(pixels)
        fields = self._processor._get_mm_fields_config(features, {})
        (item,) = MultiModalKwargsItems.from_hf_inputs(features, fields)["image"]
        return item


def image_ranges(ids: Sequence[int], image_token_id: int) -> list[PlaceholderRange]:
    """Where each picture's run of image tokens lies."""
    ranges, place = [], 0
    for is_image, run in groupby(ids, lambda token: token == image_token_id):
        length = len(list(run))
        if is_image:
            ranges.append(PlaceholderRange(offset=place, length=length))
        place += length
    return ranges
