"""Types whose pictures keep their aspect ratio: as many tokens as their size asks for."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import (
    Exaone4_5_Processor,
    Gemma4Processor,
    Glm4vProcessor,
    Glm46VProcessor,
    PaddleOCRVLProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
)
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.glmga.image_processing_pil_glmga import GlmgaImageProcessorPil
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from secondglance_server.engine.generic.processor import real_class
from tests.engine.types.row import VISION, Ids, Row, stock

PixtralProcessor = real_class(transformers.PixtralProcessor)
SMALL = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}  # pixels of a picture, at patches of 8
GLM_SIZE = {"shortest_edge": 2 * 16 * 16, "longest_edge": 2 * 64 * 64}  # two frames of it
QWEN = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
GLM = (
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|video|>",
    "<|image|>",
)
GLM_IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"
MISTRAL = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
PIXTRAL = {"model_type": "pixtral", **VISION, "image_size": 64, "patch_size": 8}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}


def qwen_ids(ids: Ids) -> dict[str, Any]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: ids(token) for name, token in names.items()}


def glm_ids(ids: Ids) -> dict[str, Any]:
    names = {"image_token_id": "<|image|>", "video_token_id": "<|video|>"}
    names |= {"image_start_token_id": "<|begin_of_image|>", "image_end_token_id": "<|end_of_image|>"}
    names |= {"video_start_token_id": "<|begin_of_video|>", "video_end_token_id": "<|end_of_video|>"}
    return {name: ids(token) for name, token in names.items()}


def qwen_vision(**more: Any) -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "num_position_embeddings": 16,
        "out_hidden_size": 64,
        **more,
    }


def interleaved(sections: list[int]) -> dict[str, Any]:
    return {**ROPE, "mrope_section": sections, "mrope_interleaved": True}


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
LINEAR = {
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "rope_parameters": {**interleaved([2, 1, 1]), "partial_rotary_factor": 0.25},
}
GLM_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 8,
    "image_size": 64,
    "out_hidden_size": 64,
}
GLM_MOE = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "head_dim": 32,
    "rope_parameters": {**ROPE, "mrope_section": [2, 3, 3], "partial_rotary_factor": 0.5},
}

QWEN2 = stock(Qwen2VLProcessor, image_processor=Qwen2VLImageProcessorPil(patch_size=8, size=SMALL))
QWEN3 = stock(Qwen3VLProcessor, image_processor=Qwen2VLImageProcessorPil(patch_size=8, size=SMALL))
GLM4 = stock(Glm4vProcessor, image_processor=Glm4vImageProcessorPil(patch_size=8, size=GLM_SIZE))
GLM46 = stock(Glm46VProcessor, image_processor=Glm46VImageProcessorPil(patch_size=8, size=GLM_SIZE))
PIXEL = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})

ROWS = {
    "qwen2_vl": Row(
        config=lambda ids: {
            "text_config": ids.text(rope_parameters={**ROPE, "mrope_section": [4, 6, 6]}),
            "vision_config": {
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 64,
                "num_heads": 2,
                "patch_size": 8,
                "mlp_ratio": 2,
            },
            **qwen_ids(ids),
        },
        processor=QWEN2,
        image=QWEN_IMAGE,
        controls=(*QWEN, "<|image_pad|>"),
    ),
    "qwen3_vl_moe": Row(
        config=lambda ids: {
            "text_config": ids.text(head_dim=32, rope_parameters=interleaved([6, 5, 5]), **MOE),
            "vision_config": qwen_vision(depth=3, deepstack_visual_indexes=[0, 1]),
            **qwen_ids(ids),
        },
        processor=QWEN3,
        image=QWEN_IMAGE,
        controls=(*QWEN, "<|image_pad|>"),
    ),
    "qwen3_5": Row(
        config=lambda ids: {
            "text_config": ids.text(**LINEAR),
            "vision_config": qwen_vision(),
            **qwen_ids(ids),
        },
        processor=QWEN3,
        image=QWEN_IMAGE,
        controls=(*QWEN, "<|image_pad|>"),
    ),
    "qwen3_5_moe": Row(
        config=lambda ids: {
            "text_config": ids.text(**LINEAR, **MOE, shared_expert_intermediate_size=32),
            "vision_config": qwen_vision(),
            **qwen_ids(ids),
        },
        processor=QWEN3,
        image=QWEN_IMAGE,
        controls=(*QWEN, "<|image_pad|>"),
    ),
    "glm4v": Row(
        config=lambda ids: {
            "text_config": ids.text(rope_parameters={**ROPE, "mrope_section": [4, 6, 6]}),
            "vision_config": GLM_VISION,
            **glm_ids(ids),
        },
        processor=GLM4,
        image=GLM_IMAGE,
        controls=GLM,
    ),
    "glm4v_moe": Row(
        config=lambda ids: {
            "text_config": ids.text(**GLM_MOE),
            "vision_config": GLM_VISION,
            **glm_ids(ids),
        },
        processor=GLM4,
        image=GLM_IMAGE,
        controls=GLM,
    ),
    "glm46v": Row(
        config=lambda ids: {
            "text_config": {
                "model_type": "glm4v_text",
                **ids.text(rope_parameters={**ROPE, "mrope_section": [4, 6, 6]}),
            },
            "vision_config": {"model_type": "glm4v_vision", **GLM_VISION},
            **glm_ids(ids),
        },
        processor=GLM46,
        image=GLM_IMAGE,
        controls=GLM,
    ),
    "mistral3": Row(
        config=lambda ids: {
            "text_config": {"model_type": "mistral", **ids.text(head_dim=32, sliding_window=None)},
            "vision_config": PIXTRAL,
            "image_token_index": ids("[IMG]"),
            "spatial_merge_size": 2,
        },
        processor=stock(PixtralProcessor, image_processor=PIXEL, patch_size=8, spatial_merge_size=2),
        image="[IMG]",
        controls=MISTRAL,
    ),
    "llava": Row(
        config=lambda ids: {
            "text_config": {"model_type": "mistral", **ids.text(head_dim=32, sliding_window=24)},
            "vision_config": PIXTRAL,
            "image_token_index": ids("[IMG]"),
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        processor=stock(PixtralProcessor, image_processor=PIXEL, patch_size=8),
        image="[IMG]",
        controls=MISTRAL,
    ),
    "exaone4_5": Row(
        config=lambda ids: {
            "text_config": {
                "model_type": "exaone4",
                **ids.text(head_dim=32, sliding_window=24, sliding_window_pattern=2),
            },
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 2,
                "num_key_value_heads": 1,
                "patch_size": 8,
                "window_size": 32,
                "fullatt_block_indexes": [1],
                "out_hidden_size": 64,
            },
            "image_token_id": ids("<|image_pad|>"),
            "video_token_id": ids("<|video_pad|>"),
        },
        processor=stock(
            Exaone4_5_Processor, image_processor=Qwen2VLImageProcessorPil(patch_size=8, size=SMALL)
        ),
        image="<vision><|image_pad|></vision>",
        controls=("<|video_pad|>",),
        named={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    ),
    "glm_ocr": Row(
        config=lambda ids: {
            "text_config": ids.text(head_dim=32, rope_parameters={**ROPE, "mrope_section": [4, 6, 6]}),
            "vision_config": GLM_VISION,
            **glm_ids(ids),
        },
        processor=GLM46,
        image=GLM_IMAGE,
        controls=GLM,
    ),
    "paddleocr_vl": Row(
        config=lambda ids: {
            "text_config": ids.text(head_dim=32, rope_parameters={**ROPE, "mrope_section": [4, 6, 6]}),
            "vision_config": {**VISION, "image_size": 64, "patch_size": 8},
            **qwen_ids(ids),
        },
        processor=stock(
            PaddleOCRVLProcessor, image_processor=PaddleOCRVLImageProcessorPil(patch_size=8, size=SMALL)
        ),
        image=QWEN_IMAGE,
        controls=QWEN,
        named={"image_token": "<|image_pad|>"},
    ),
    "glmga": Row(
        config=lambda ids: {
            "text_config": {
                "model_type": "glm4v_text",
                **ids.text(rope_parameters={**ROPE, "mrope_section": [4, 6, 6]}),
            },
            "vision_config": {"model_type": "glm4v_vision", **GLM_VISION},
            **glm_ids(ids),
        },
        processor=stock(Glm46VProcessor, image_processor=GlmgaImageProcessorPil(patch_size=8, size=GLM_SIZE)),
        image=GLM_IMAGE,
        controls=GLM,
    ),
    "gemma4": Row(
        config=lambda ids: {
            "text_config": ids.text(
                head_dim=32,
                global_head_dim=32,
                sliding_window=24,
                num_hidden_layers=4,
                layer_types=["sliding_attention", "full_attention"] * 2,
                hidden_size_per_layer_input=0,
                vocab_size_per_layer_input=ids.size,
            ),
            "vision_config": {
                **VISION,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "patch_size": 8,
                "pooling_kernel_size": 2,
                "position_embedding_size": 64,
            },
            "audio_config": None,
            "image_token_id": ids("<|image|>"),
            "video_token_id": ids("<|video|>"),
            "audio_token_id": ids("<|audio|>"),
            "boi_token_id": ids("<|image>"),
            "eoi_token_id": ids("<image|>"),
            "boa_token_id": ids("<|audio>"),
            "eoa_token_index": ids("<audio|>"),
        },
        processor=stock(
            Gemma4Processor,
            image_processor=Gemma4ImageProcessorPil(patch_size=8, max_soft_tokens=70, pooling_kernel_size=2),
            image_seq_length=70,
        ),
        image="<|image|>",
        controls=("<|video|>",),
        named={
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
    ),
}
