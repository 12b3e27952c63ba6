"""Qwen3-VL: as Qwen2.5-VL with learned encoder positions and features for the decoder's first layers."""

from __future__ import annotations

import pathlib

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.engine.tiny.parts import TEXT, Tiny, byte_tokenizer, chat, pictures_only, save_and_reload
from tests.engine.tiny.qwen2_5_vl import CONTROLS

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(directory: pathlib.Path) -> Tiny:
    tokenizer = byte_tokenizer(CONTROLS, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    ids = dict(zip(CONTROLS, tokenizer.convert_tokens_to_ids(list(CONTROLS)), strict=True))
    config = Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 8,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
            "out_hidden_size": TEXT["hidden_size"],
        },
        text_config={
            **TEXT,
            "num_hidden_layers": 3,
            "vocab_size": len(tokenizer),
            "head_dim": 8,
            "eos_token_id": ids["<|im_end|>"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = save_and_reload(Qwen3VLForConditionalGeneration(config), directory)
    images = Qwen2VLImageProcessorPil(
        patch_size=8,
        size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    images.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = pictures_only(Qwen3VLProcessor)(images, tokenizer, None, chat_template=TEMPLATE)
    return Tiny("qwen3_vl", directory, model, chat(processor), CONTROLS)
