"""Types whose image processor needs torchvision: `make test-torchvision` has it, `make test` has not."""

from __future__ import annotations

from importlib.util import find_spec

from tests.engine.types.row import PATCH, SIDE, VISION, Row, stock
from tests.engine.types.squares import SIGLIP, SQUARE, WIDE_TEXT

TYPES = ("cohere2_vision", "lfm2_vl", "llama4")
IS_THERE = find_spec("torchvision") is not None
_COHERE = {
    "boi_token": "<|START_OF_IMG|>",
    "eoi_token": "<|END_OF_IMG|>",
    "image_token": "<|IMG_PATCH|>",
    "img_line_break_token": "<|IMG_LINE_BREAK|>",
}
_LFM2 = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail_token": "<|img_thumbnail|>",
}
_LLAMA4 = ("<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>")


def _rows() -> dict[str, Row]:
    from transformers.models.cohere2_vision.image_processing_cohere2_vision import Cohere2VisionImageProcessor
    from transformers.models.cohere2_vision.processing_cohere2_vision import Cohere2VisionProcessor
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
    from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

    return {
        "cohere2_vision": Row(
            config=lambda ids: {
                "text_config": {"model_type": "cohere2", **ids.text(**WIDE_TEXT)},
                "vision_config": SIGLIP,
                "image_token_id": ids("<|IMG_PATCH|>"),
                "alignment_intermediate_size": 64,
            },
            processor=stock(
                Cohere2VisionProcessor,
                image_processor=Cohere2VisionImageProcessor(
                    size=SQUARE, crop_to_patches=True, max_patches=4, patch_size=SIDE // PATCH // 2
                ),
            ),
            image="<|IMG_PATCH|>",
            named=_COHERE,
        ),
        "lfm2_vl": Row(
            config=lambda ids: {
                "text_config": {
                    "model_type": "lfm2",
                    **ids.text(
                        num_hidden_layers=4, layer_types=["conv", "full_attention", "conv", "full_attention"]
                    ),
                },
                "vision_config": {
                    **VISION,
                    "model_type": "siglip2_vision_model",
                    "patch_size": 8,
                    "num_patches": 64,
                },
                "image_token_id": ids("<image>"),
                "projector_hidden_size": 64,
            },
            processor=stock(
                Lfm2VlProcessor,
                image_processor=Lfm2VlImageProcessor(
                    encoder_patch_size=8,
                    tile_size=32,
                    min_image_tokens=4,
                    max_image_tokens=16,
                    max_tiles=4,
                    size={"height": 32, "width": 32},
                ),
            ),
            named=_LFM2,
            controls=tuple(f"<|img_row_{row}_col_{col}|>" for row in range(1, 5) for col in range(1, 5)),
        ),
    }


def _unserved() -> dict[str, Row]:
    from transformers.models.llama4.image_processing_llama4 import Llama4ImageProcessor
    from transformers.models.llama4.processing_llama4 import Llama4Processor

    return {
        "llama4": Row(
            config=lambda ids: {
                "text_config": {
                    **ids.text(num_hidden_layers=4, head_dim=32),
                    "intermediate_size_mlp": 64,
                    "num_local_experts": 2,
                    "attention_chunk_size": 16,
                    "no_rope_layers": [1, 1, 1, 0],
                },
                "vision_config": {
                    **VISION,
                    "intermediate_size": 128,
                    "vision_output_dim": 32,
                    "image_size": SIDE,
                    "patch_size": PATCH,
                    "projector_input_dim": 32,
                    "projector_output_dim": 32,
                },
                "image_token_index": ids("<|patch|>"),
                "boi_token_index": ids("<|image_start|>"),
                "eoi_token_index": ids("<|image_end|>"),
            },
            processor=stock(
                Llama4Processor,
                image_processor=Llama4ImageProcessor(size=SQUARE, max_patches=4),
                patch_size=PATCH,
            ),
            image="<|image|>",
            controls=_LLAMA4,
        )
    }


ROWS: dict[str, Row] = _rows() if IS_THERE else {}
UNSERVED: dict[str, Row] = _unserved() if IS_THERE else {}
