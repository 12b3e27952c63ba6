"""LLaVA-OneVision: SigLIP without a class token, a Qwen2 decoder, a newline after every picture."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from tests.engine.tiny.parts import RGB, SIGLIP, TEXT, Tiny, byte_tokenizer, pictures_only, save_and_reload

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIDE, PATCH = 58, 14  # as 384 and 14 on the hub: the side is no multiple of the patch


def build(directory: pathlib.Path) -> Tiny:
    controls = ["<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = byte_tokenizer(controls, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**SIGLIP, image_size=SIDE, patch_size=PATCH, vision_use_head=False),
        text_config=Qwen2Config(vocab_size=len(tokenizer), **TEXT, eos_token_id=end),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
    )
    model = save_and_reload(LlavaOnevisionForConditionalGeneration(config), directory)
    images = LlavaOnevisionImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=config.image_grid_pinpoints,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    images.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = pictures_only(LlavaOnevisionProcessor)(
        images,
        tokenizer,
        None,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )

    def stock_inputs(question: str, pictures: Sequence[RGB]) -> dict[str, Any]:
        """In multi-image mode; for one picture, what that mode makes of it, less its twin."""
        content = [{"type": "image"}] * 2 + [{"type": "text", "text": question}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        pair = [Image.fromarray(rgb) for rgb in (pictures[0], pictures[-1])]
        inputs = dict(processor(text=prompt, images=[pair], return_tensors="pt"))
        if len(pictures) == 1:
            for name in ("pixel_values", "image_sizes"):
                inputs[name] = inputs[name][:1]
            run = (SIDE // PATCH) ** 2 + 1
            first = inputs["input_ids"][0].tolist().index(config.image_token_id)
            keep = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
            keep[first : first + run] = False
            for name in ("input_ids", "attention_mask"):
                inputs[name] = inputs[name][:, keep]
        return inputs

    return Tiny("llava_onevision", directory, model, stock_inputs, tuple(controls))
