"""The embedded model's architecture, with its own tokenizer, chat template and convolutional tower."""

from __future__ import annotations

import pathlib

from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from secondglance_server.engine.embedded.tower import TowerConfig
from tests.engine.tiny.parts import TEXT, Tiny, chat, save_and_reload
from training.tokenizer import build_tokenizer

SIDE, PATCH = 64, 16


def build(directory: pathlib.Path) -> Tiny:
    tokenizer = build_tokenizer()
    config = LlavaConfig(
        vision_config=TowerConfig(
            hidden_size=32,
            num_attention_heads=4,
            num_hidden_layers=1,
            stem_channels=(8, 8, 8),
            image_size=SIDE,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            **TEXT,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=True,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = save_and_reload(LlavaForConditionalGeneration(config), directory)
    padding = LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size={"height": SIDE, "width": SIDE})
    padding.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = LlavaProcessor(
        padding,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    controls = ("<image>", "</s>", "<s>", "USER:", "ASSISTANT:")
    return Tiny("embedded", directory, model, chat(processor), controls)
