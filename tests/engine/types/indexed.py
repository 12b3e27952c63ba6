"""Types whose layers choose the tokens that they look at, and read would look at all: they only answer."""

from __future__ import annotations

from transformers import Dots3NoteProcessor, Glm5NextProcessor, HYV4VLProcessor
from transformers.models.glm5_next.image_processing_pil_glm5_next import Glm5NextImageProcessorPil
from transformers.models.hy_v4_vl.image_processing_pil_hy_v4_vl import HYV4VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.engine.types.free import (
    GLM,
    GLM_IMAGE,
    MISTRAL,
    PIXEL,
    PIXTRAL,
    QWEN,
    QWEN_IMAGE,
    ROPE,
    SMALL,
    PixtralProcessor,
    glm_ids,
)
from tests.engine.types.row import VISION, Row, stock

# latent keys and values, and an index over them
LATENT = {
    "num_key_value_heads": 2,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "index_topk": 16,
    "index_head_dim": 32,
    "index_n_heads": 2,
}

ROWS = {
    "hy_v4_vl": Row(
        config=lambda ids: {
            "text_config": ids.text(
                **LATENT, hc_mult=2, rope_parameters={**ROPE, "mrope_section": [4, 2, 2]}
            ),
            "vision_config": {**VISION, "patch_size": 8, "out_hidden_size": 64, "max_image_size": 64},
            "image_token_id": ids("<|image_pad|>"),
            "video_token_id": ids("<|video_pad|>"),
        },
        processor=stock(HYV4VLProcessor, image_processor=HYV4VLImageProcessorPil(patch_size=8, size=SMALL)),
        image=QWEN_IMAGE,
        controls=QWEN,
    ),
    "glm5_next": Row(
        config=lambda ids: {
            "text_config": ids.text(
                **{**LATENT, "qk_rope_head_dim": 0, "qk_nope_head_dim": 32, "index_topk": 16},
                index_kpool=4,
                linear_head_dim=32,
                linear_num_heads=2,
                hc_mult=2,
                layer_types=["linear_attention", "indexed_attention", "indexed_attention"],
            ),
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "num_heads": 2,
                "image_size": 64,
                "patch_size": 8,
                "out_hidden_size": 64,
                "intermediate_size": 48,
                "projection_intermediate_size": 64,
            },
            **glm_ids(ids),
        },
        processor=stock(
            Glm5NextProcessor,
            image_processor=Glm5NextImageProcessorPil(patch_size=8, min_image_tokens=1, max_image_tokens=16),
        ),
        image=GLM_IMAGE,
        controls=GLM,
    ),
    "dots3_note": Row(
        config=lambda ids: {
            "text_config": ids.text(
                **LATENT,
                head_dim=32,
                sliding_window=24,
                shared_experts_intermediate_size=32,
                layer_types=["indexed_attention"] * 3,
            ),
            "vision_config": {
                **VISION,
                "patch_size": 8,
                "moe_intermediate_size": 32,
                "mlp_layer_types": ["dense", "dense"],
                "adapter_in_dim": 32,
                "adapter_out_dim": 64,
            },
            "audio_config": {
                **VISION,
                "downsample_hidden_size": 16,
                "adapter_input_size": 32,
                "adapter_out_dim": 64,
            },
            "image_token_id": ids("<|imgpad|>"),
            "video_token_id": ids("<|video_pad|>"),
            "audio_token_id": ids("<|audio_comp_pad|>"),
        },
        processor=stock(
            Dots3NoteProcessor,
            image_processor=Qwen2VLImageProcessorPil(patch_size=8, temporal_patch_size=1, size=SMALL),
        ),
        image="<|img|><|imgpad|><|endofimg|>",
        controls=("<|video_pad|>", "<|audio_comp_pad|>"),
    ),
    "mistral_large4": Row(
        config=lambda ids: {
            "text_config": ids.text(**LATENT, rope_parameters=ROPE),
            "vision_config": PIXTRAL,
            "image_token_index": ids("[IMG]"),
        },
        processor=stock(PixtralProcessor, image_processor=PIXEL, patch_size=8, spatial_merge_size=2),
        image="[IMG]",
        controls=MISTRAL,
    ),
}
