"""Idefics3: SigLIP with pixel shuffle, a Llama decoder, one tile a picture."""

from __future__ import annotations

import pathlib

from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tests.engine.tiny.parts import SIGLIP, TEXT, Tiny, byte_tokenizer, chat, save_and_reload

TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
CONTROLS = (
    "<|im_start|>",
    "<end_of_utterance>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<row_1_col_1>",
)
SIDE, PATCH, SCALE = 64, 8, 2


def build(directory: pathlib.Path) -> Tiny:
    tokenizer = byte_tokenizer(CONTROLS, bos="<|begin|>", eos="<end_of_utterance>", pad="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    config = Idefics3Config(
        vision_config={**SIGLIP, "image_size": SIDE, "patch_size": PATCH},
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), **TEXT, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
    )
    model = save_and_reload(Idefics3ForConditionalGeneration(config), directory)
    Idefics3ImageProcessorPil(
        size={"longest_edge": 4 * SIDE}, max_image_size={"longest_edge": SIDE}
    ).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    one_tile = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    seq_len = (SIDE // PATCH // SCALE) ** 2
    processor = Idefics3Processor(one_tile, tokenizer, image_seq_len=seq_len, chat_template=TEMPLATE)
    return Tiny("idefics3", directory, model, chat(processor), CONTROLS)
