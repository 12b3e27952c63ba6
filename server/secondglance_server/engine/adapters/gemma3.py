"""Gemma 3: one squashed square of pooled patches; image tokens see each other in both directions.

Pan and scan (extra crops of long pictures) is off, as it is by default: the second stage sends the region.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.modeling_gemma3 import (
    create_masks_for_vision_model,
    get_block_sequence_ids_for_mask,
)

from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.adapters.protocol import Chunk, ImageLayout


class Gemma3Adapter(TransformersAdapter):
    model_types = ("gemma3",)
    placeholder = "<start_of_image>"

    @classmethod
    def load_image_processor(cls, source: str, config: Any) -> Any:
        return Gemma3ImageProcessorPil.from_pretrained(source, do_pan_and_scan=False)

    def layout(self, width: int, height: int) -> ImageLayout:
        cells = int(self.config.mm_tokens_per_image**0.5)
        token = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        text = f"\n\n<start_of_image>{token}<end_of_image>\n\n"
        return ImageLayout(text=text, run=cells * cells, rows=cells, cols=cells)

    def embed(self, ids: Tensor) -> Tensor:
        # the image token may lie outside the vocabulary
        embedded: Tensor = self.embeddings(ids.masked_fill(ids == self.image_token_id, 0))
        return embedded

    def extra_inputs(self, chunk: Chunk, cache: Any) -> dict[str, Any]:
        if chunk.is_image is None:
            return {}
        blocks = get_block_sequence_ids_for_mask(chunk.is_image.long())
        masks = create_masks_for_vision_model(
            config=self.text_config,
            inputs_embeds=chunk.embeddings,
            attention_mask=chunk.visible,
            cache=cache,
            position_ids=chunk.positions[0],
            block_sequence_ids=pad(blocks, (cache.get_seq_length(), 0), value=-1),
        )
        return {"attention_mask": masks}
