"""Qwen2.5-VL: free aspect ratio, window attention in the encoder, positions on three axes."""

from __future__ import annotations

import pathlib

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.engine.tiny.parts import TEXT, Tiny, byte_tokenizer, chat, pictures_only, save_and_reload

TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROLS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def build(directory: pathlib.Path) -> Tiny:
    tokenizer = byte_tokenizer(CONTROLS, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    ids = dict(zip(CONTROLS, tokenizer.convert_tokens_to_ids(list(CONTROLS)), strict=True))
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 8,
            "window_size": 32,
            "fullatt_block_indexes": [1],
            "out_hidden_size": TEXT["hidden_size"],
        },
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "eos_token_id": ids["<|im_end|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = save_and_reload(Qwen2_5_VLForConditionalGeneration(config), directory)
    images = Qwen2VLImageProcessorPil(patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64})
    images.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = pictures_only(Qwen2_5_VLProcessor)(images, tokenizer, None, chat_template=TEMPLATE)
    return Tiny("qwen2_5_vl", directory, model, chat(processor), CONTROLS)
