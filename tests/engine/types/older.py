"""Older types, and some of other make, that answer and ask for no region."""

from __future__ import annotations

from transformers import Gemma3Processor, IdeficsProcessor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

from tests.engine.types.row import END, PATCH, SIDE, Row, stock
from tests.engine.types.squares import SIGLIP, SQUARE

BOTH = {"head_dim": 32, "sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"] * 2}

ROWS = {
    "idefics": Row(
        config=lambda ids: {
            **ids.text(),
            "vision_config": {
                "embed_dim": 32,
                "image_size": SIDE,
                "intermediate_size": 48,
                "patch_size": PATCH,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
            "perceiver_config": {"use_resampler": False},
            "cross_layer_interval": 1,
            "additional_vocab_size": 0,
            "alpha_initializer": "ones",
        },
        processor=stock(IdeficsProcessor, image_processor=IdeficsImageProcessorPil(image_size=SIDE)),
        controls=("<fake_token_around_image>", "<end_of_utterance>"),
        has_template=False,
    ),
    "t5gemma2": Row(
        config=lambda ids: {
            "encoder": {
                "text_config": ids.text(num_hidden_layers=4, **BOTH),
                "vision_config": SIGLIP,
                "mm_tokens_per_image": 4,
                "boi_token_index": ids("<start_of_image>"),
                "eoi_token_index": ids("<end_of_image>"),
                "image_token_index": ids("<image>"),
            },
            "decoder": ids.text(num_hidden_layers=4, **BOTH),
            "image_token_index": ids("<image>"),
            "eoi_token_index": ids("<end_of_image>"),
            "decoder_start_token_id": ids("<s>"),
            "eos_token_id": ids(END),
            "pad_token_id": ids("<pad>"),
        },
        processor=stock(
            Gemma3Processor,
            image_processor=Gemma3ImageProcessorPil(size=SQUARE, image_seq_length=4),
            image_seq_length=4,
        ),
        image="<start_of_image>",
        named={"image_token": "<image>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
    ),
}
