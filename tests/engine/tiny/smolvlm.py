"""SmolVLM2: Idefics3's architecture under its own classes."""

from __future__ import annotations

import pathlib

from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.engine.tiny.idefics3 import CONTROLS, PATCH, SCALE, SIDE, TEMPLATE
from tests.engine.tiny.parts import (
    SIGLIP,
    TEXT,
    Tiny,
    byte_tokenizer,
    chat,
    pictures_only,
    save_and_reload,
)


def build(directory: pathlib.Path) -> Tiny:
    tokenizer = byte_tokenizer(CONTROLS, bos="<|begin|>", eos="<end_of_utterance>", pad="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    config = SmolVLMConfig(
        vision_config={**SIGLIP, "image_size": SIDE, "patch_size": PATCH},
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), **TEXT, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
    )
    model = save_and_reload(SmolVLMForConditionalGeneration(config), directory)
    SmolVLMImageProcessorPil(
        size={"longest_edge": 4 * SIDE}, max_image_size={"longest_edge": SIDE}
    ).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    one_tile = SmolVLMImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    seq_len = (SIDE // PATCH // SCALE) ** 2
    processor = pictures_only(SmolVLMProcessor)(
        one_tile, tokenizer, None, image_seq_len=seq_len, chat_template=TEMPLATE
    )
    return Tiny("smolvlm", directory, model, chat(processor), CONTROLS)
