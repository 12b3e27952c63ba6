"""LLaVA-1.5: CLIP with a class token, a Llama decoder, the hub's chat template."""

from __future__ import annotations

import pathlib

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from tests.engine.tiny.parts import SIGLIP, TEXT, Tiny, byte_tokenizer, chat, save_and_reload

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
SIDE, PATCH = 56, 14


def build(directory: pathlib.Path) -> Tiny:
    tokenizer = byte_tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    tokenizer.chat_template = TEMPLATE
    text = LlamaConfig(
        vocab_size=len(tokenizer), **TEXT, bos_token_id=256, eos_token_id=257, pad_token_id=258
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SIGLIP, image_size=SIDE, patch_size=PATCH),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = save_and_reload(LlavaForConditionalGeneration(config), directory)
    # as on the hub: the processor that is saved crops the centre; the engine must pad instead
    saved = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    saved.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    padding = LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(
        padding,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return Tiny("llava", directory, model, chat(processor), ("<image>", "</s>", "<s>", "<pad>"))
