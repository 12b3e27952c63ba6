"""InternVL3: InternViT with pixel shuffle, a Qwen2 decoder."""

from __future__ import annotations

import pathlib

from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    Qwen2Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from tests.engine.tiny.parts import (
    SIGLIP,
    TEXT,
    Tiny,
    byte_tokenizer,
    chat,
    pictures_only,
    save_and_reload,
)

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
SIDE, PATCH = 64, 8


def build(directory: pathlib.Path) -> Tiny:
    controls = ("<|im_start|>", "<|im_end|>", *NAMED.values())
    tokenizer = byte_tokenizer(controls, bos=None, eos="<|im_end|>", pad="<|endoftext|>", named=NAMED)
    tokenizer.chat_template = TEMPLATE
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            **SIGLIP, image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH], norm_type="layer_norm"
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer), **TEXT, eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>")
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(SIDE // PATCH // 2) ** 2,
    )
    model = save_and_reload(InternVLForConditionalGeneration(config), directory)
    images = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=True)
    images.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = pictures_only(InternVLProcessor)(
        images, tokenizer, None, image_seq_length=config.image_seq_length, chat_template=TEMPLATE
    )
    return Tiny("internvl", directory, model, chat(processor, crop_to_patches=False), controls)
