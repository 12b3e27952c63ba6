"""LLaVA-1.5 and models of its architecture: a square grid of image tokens, the picture padded to a square.

The hub's processor resizes the short side and crops the centre, so that its grid does not cover the picture.
Here the picture is padded, as LLaVA-1.5 was trained and as transformers' own LlavaImageProcessor does. Not
covered: Pixtral encoders.
"""

from __future__ import annotations

from typing import Any

from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from secondglance_server.engine.adapters.base import TransformersAdapter, padded_content
from secondglance_server.engine.adapters.protocol import ImageLayout


class LlavaAdapter(TransformersAdapter):
    model_types = ("llava",)
    runs_on_vllm = True
    default_chat_template = (
        "USER: {% for message in messages %}{% for part in message.content %}"
        "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endfor %} ASSISTANT:"
    )

    @classmethod
    def serves(cls, config: Any) -> bool:
        """A Pixtral encoder's grid has no fixed size."""
        return bool(config.vision_config.model_type != "pixtral")

    @classmethod
    def load_image_processor(cls, source: str, config: Any) -> Any:
        side = config.vision_config.image_size
        return LlavaImageProcessorPil.from_pretrained(
            source, do_pad=True, do_center_crop=False, size={"height": side, "width": side}
        )

    def layout(self, width: int, height: int) -> ImageLayout:
        patch = int(self.config.vision_config.patch_size)
        cells = self.side // patch
        # CLIP's features start with a class token, which the strategy "default" takes off again
        class_token = int(self.config.vision_config.model_type == "clip_vision_model")
        class_token -= int(self.config.vision_feature_select_strategy == "default")
        return ImageLayout(
            text=self.tokenizer.convert_ids_to_tokens(self.image_token_id),
            run=cells * cells + class_token,
            rows=cells,
            cols=cells,
            grid_start=class_token,
            content=padded_content(width, height, covered=cells * patch / self.side),
        )
