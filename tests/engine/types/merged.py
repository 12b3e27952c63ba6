"""More types whose pictures keep their aspect ratio: rows of patches, of which squares are merged."""

from __future__ import annotations

from transformers import (
    CohereCompassProcessor,
    Cosmos3EdgeProcessor,
    Ernie4_5_VLMoeProcessor,
    HyperCLOVAXVisionV2Processor,
    Lfm3VlProcessor,
    LightOnOcrProcessor,
    VideoLlama3Processor,
)
from transformers.models.cohere_compass.image_processing_pil_cohere_compass import (
    CohereCompassImageProcessorPil,
)
from transformers.models.cosmos3_edge.image_processing_pil_cosmos3_edge import Cosmos3EdgeImageProcessorPil
from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import (
    Ernie4_5_VLMoeImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

from tests.engine.types.free import (
    LINEAR,
    MOE,
    PIXEL,
    PIXTRAL,
    QWEN,
    QWEN3,
    QWEN_IMAGE,
    SMALL,
    interleaved,
    qwen_ids,
    qwen_vision,
)
from tests.engine.types.row import VISION, Row, stock

COMPASS = {
    "image_token_id": "<|IMAGE_PAD|>",
    "video_token_id": "<|VIDEO_PAD|>",
    "vision_start_token_id": "<|VISION_START|>",
    "vision_end_token_id": "<|VISION_END|>",
}
ERNIE = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
QWEN_PIL = Qwen2VLImageProcessorPil(patch_size=8, size=SMALL)

ROWS = {
    "cohere_compass": Row(
        config=lambda ids: {
            "text_config": ids.text(
                rope_parameters={"full_attention": interleaved([6, 5, 5])},
                layer_types=["full_attention"] * 3,
            ),
            "vision_config": qwen_vision(depth=3, deepstack_visual_indexes=[0, 1]),
            **{name: ids(token) for name, token in COMPASS.items()},
        },
        processor=stock(
            CohereCompassProcessor, image_processor=CohereCompassImageProcessorPil(patch_size=8, size=SMALL)
        ),
        image="<|VISION_START|><|IMAGE_PAD|><|VISION_END|>",
        controls=("<|VIDEO_PAD|>",),
    ),
    "hyperclovax_vision_v2": Row(
        config=lambda ids: {
            "text_config": {"model_type": "hyperclovax", **ids.text(head_dim=32)},
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 2,
                "patch_size": 8,
                "window_size": 32,
                "fullatt_block_indexes": [1],
                "out_hidden_size": 64,
            },
            "image_token_id": ids("<|image_pad|>"),
            "video_token_id": ids("<|video_pad|>"),
        },
        processor=stock(HyperCLOVAXVisionV2Processor, image_processor=QWEN_PIL),
        image=QWEN_IMAGE,
        controls=QWEN,
    ),
    "video_llama_3": Row(
        config=lambda ids: {
            "text_config": {"model_type": "qwen2", **ids.text()},
            "vision_config": {**VISION, "patch_size": 8},
            "image_token_id": ids("<|image_pad|>"),
            "video_token_id": ids("<|video_pad|>"),
        },
        processor=stock(
            VideoLlama3Processor, image_processor=VideoLlama3ImageProcessorPil(patch_size=8, size=SMALL)
        ),
        image=QWEN_IMAGE,
        controls=QWEN,
    ),
    "ernie4_5_vl_moe": Row(
        config=lambda ids: {
            "text_config": ids.text(
                moe_num_experts=4,
                moe_k=2,
                moe_intermediate_size=[32, 16],
                moe_num_shared_experts=1,
                rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 6, 4]},
            ),
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 2,
                "patch_size": 8,
            },
            **{f"{name}_id": ids(token) for name, token in ERNIE.items()},
        },
        processor=stock(
            Ernie4_5_VLMoeProcessor, image_processor=Ernie4_5_VLMoeImageProcessorPil(patch_size=8, size=SMALL)
        ),
        image="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        named=ERNIE,
    ),
    "lfm3_vl": Row(
        config=lambda ids: {
            "text_config": {
                "model_type": "lfm3",
                **ids.text(
                    head_dim=32,
                    num_hidden_layers=4,
                    layer_types=["conv", "full_attention", "conv", "full_attention"],
                ),
            },
            "vision_config": {**VISION, "num_key_value_heads": 2, "patch_size": 8},
            "projector_hidden_size": 64,
            **qwen_ids(ids),
        },
        processor=stock(Lfm3VlProcessor, image_processor=QWEN_PIL),
        image=QWEN_IMAGE,
        controls=QWEN,
    ),
    "lighton_ocr": Row(
        config=lambda ids: {
            "text_config": {"model_type": "qwen3", **ids.text(head_dim=32)},
            "vision_config": {**PIXTRAL, "head_dim": 16},
            "image_token_id": ids("[IMG]"),
        },
        processor=stock(LightOnOcrProcessor, image_processor=PIXEL, patch_size=8),
        image="[IMG]",
        named={"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"},
    ),
    "cosmos3_edge": Row(
        config=lambda ids: {
            "text_config": ids.text(head_dim=32, rope_parameters=interleaved([6, 5, 5])),
            "vision_config": {**VISION, "patch_size": 8, "num_patches": 16},
            "projector_hidden_size": 64,
            **qwen_ids(ids),
        },
        processor=stock(
            Cosmos3EdgeProcessor, image_processor=Cosmos3EdgeImageProcessorPil(patch_size=8, size=SMALL)
        ),
        image=QWEN_IMAGE,
        controls=(*QWEN, "<|image_pad|>"),
        options={"return_mm_token_type_ids": True},
    ),
    "cosmos3_omni": Row(
        config=lambda ids: {
            "text_config": ids.text(head_dim=32, rope_parameters=interleaved([6, 5, 5])),
            "vision_config": qwen_vision(depth=3, deepstack_visual_indexes=[0, 1]),
            **qwen_ids(ids),
        },
        processor=QWEN3,
        image=QWEN_IMAGE,
        controls=(*QWEN, "<|image_pad|>"),
    ),
    "qwen4_exp": Row(
        config=lambda ids: {
            "text_config": ids.text(
                **LINEAR,
                **MOE,
                shared_expert_intermediate_size=32,
                hc_count=2,
                hc_lowrank=16,
                indexer_n_heads=2,
                indexer_kv_heads=1,
                indexer_head_dim=32,
                indexer_budget=16,
                indexer_compress_ratio=4,
            ),
            "vision_config": qwen_vision(),
            **qwen_ids(ids),
        },
        processor=QWEN3,
        image=QWEN_IMAGE,
        controls=(*QWEN, "<|image_pad|>"),
    ),
}
