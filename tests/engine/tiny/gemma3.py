"""Gemma 3: SigLIP with pooling, windowed and full layers, image tokens that see each other."""

from __future__ import annotations

import pathlib

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    SiglipVisionConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from tests.engine.tiny.parts import SIGLIP, TEXT, Tiny, byte_tokenizer, chat, save_and_reload

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
NAMED = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
SIDE, PATCH = 64, 8


def build(directory: pathlib.Path) -> Tiny:
    controls = (*NAMED.values(), "<start_of_turn>", "<end_of_turn>")
    tokenizer = byte_tokenizer(controls, bos="<bos>", eos="<eos>", pad="<pad>", named=NAMED)
    tokenizer.chat_template = TEMPLATE
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**SIGLIP, image_size=SIDE, patch_size=PATCH, vision_use_head=False),
        text_config=Gemma3TextConfig(
            **{**TEXT, "num_hidden_layers": 3},
            vocab_size=len(tokenizer),
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=24,  # shorter than the prompts
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=0,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        mm_tokens_per_image=16,
    )
    model = save_and_reload(Gemma3ForConditionalGeneration(config), directory)
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = Gemma3Processor(images, tokenizer, image_seq_length=16, chat_template=TEMPLATE)
    return Tiny("gemma3", directory, model, chat(processor), controls)
