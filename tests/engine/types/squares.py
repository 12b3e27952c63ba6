"""Types whose pictures have a fixed number of tokens, or tiles of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import (
    AyaVisionProcessor,
    DeepseekVLHybridProcessor,
    DeepseekVLProcessor,
    GotOcr2Processor,
    JanusProcessor,
    LlavaNextProcessor,
    LlavaNextVideoProcessor,
    LlavaProcessor,
    Ovis2Processor,
    PaliGemmaProcessor,
    QianfanOCRProcessor,
    VideoLlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.engine.types.row import PATCH, SIDE, VISION, Row, stock

SQUARE = {"height": SIDE, "width": SIDE}
CLIP = {"model_type": "clip_vision_model", **VISION, "image_size": SIDE, "patch_size": PATCH}
SIGLIP = {
    "model_type": "siglip_vision_model",
    **VISION,
    "image_size": SIDE,
    "patch_size": PATCH,
    "vision_use_head": False,
}
PADDED = LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size=SQUARE)
CLS = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
WIDE_TEXT = {"sliding_window": 24, "sliding_window_pattern": 3, "head_dim": 32}
OVIS = ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
AYA = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL")
BOI = {"image_token": "<image>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
QIANFAN = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def with_attributes(processor: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(processor, name, value)
    return processor


ROWS = {
    "vipllava": Row(
        config=lambda ids: {
            "text_config": {"model_type": "llama", **ids.text()},
            "vision_config": CLIP,
            "image_token_index": ids("<image>"),
            "vision_feature_layers": [-2, -1],
        },
        processor=stock(LlavaProcessor, image_processor=PADDED, **CLS),
    ),
    "llava_next": Row(
        config=lambda ids: {
            "text_config": {"model_type": "mistral", **ids.text(sliding_window=None)},
            "vision_config": CLIP,
            "image_token_index": ids("<image>"),
            "image_grid_pinpoints": PINPOINTS,
        },
        processor=stock(
            LlavaNextProcessor,
            image_processor=LlavaNextImageProcessorPil(
                size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS
            ),
            **CLS,
        ),
    ),
    "aya_vision": Row(
        config=lambda ids: {
            "text_config": {"model_type": "cohere2", **ids.text(**WIDE_TEXT)},
            "vision_config": SIGLIP,
            "image_token_index": ids("<|IMG_PATCH|>"),
        },
        processor=stock(
            AyaVisionProcessor,
            image_processor=GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
            patch_size=2 * PATCH,
            img_size=SIDE,
        ),
        controls=AYA,
    ),
    "ovis2": Row(
        config=lambda ids: {
            "text_config": {"model_type": "qwen2", **ids.text()},
            "vision_config": {**VISION, "image_size": SIDE, "patch_size": PATCH, "vocab_size": 64},
            "image_token_id": ids("<IMG_ATOM>"),
            "visual_indicator_token_ids": [ids(token) for token in OVIS[1:]],
            "vocab_size": ids.size,
            "hidden_size": 64,
        },
        processor=stock(
            Ovis2Processor,
            image_processor=Ovis2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
            image_seq_length=(SIDE // PATCH) ** 2,
        ),
        controls=OVIS,
    ),
    "deepseek_vl": Row(
        config=lambda ids: {
            "text_config": {"model_type": "llama", **ids.text()},
            "vision_config": SIGLIP,
            "image_token_id": ids("<image>"),
        },
        processor=stock(
            DeepseekVLProcessor,
            image_processor=DeepseekVLImageProcessorPil(size=SQUARE),
            num_image_tokens=(SIDE // PATCH) ** 2,
        ),
        named={"image_token": "<image>"},
    ),
    "janus": Row(
        config=lambda ids: {
            "text_config": {"model_type": "llama", **ids.text()},
            "vision_config": {
                **VISION,
                "image_size": SIDE,
                "patch_size": PATCH,
                "projection_dim": 64,
                "mlp_ratio": 2.0,
                "num_image_tokens": (SIDE // PATCH) ** 2,
            },
            "vq_config": {
                "embed_dim": 4,
                "num_embeddings": 16,
                "latent_channels": 8,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "num_patches": 4,
                "projection_dim": 64,
                "image_token_embed_dim": 64,
            },
            "image_token_id": ids("<image>"),
        },
        processor=stock(
            JanusProcessor,
            image_processor=JanusImageProcessorPil(size=SQUARE, min_size=PATCH),
            num_image_tokens=(SIDE // PATCH) ** 2,
        ),
        named=BOI,
    ),
    "paligemma": Row(
        config=lambda ids: {
            "text_config": {"model_type": "gemma", **ids.text(head_dim=32)},
            "vision_config": {**SIGLIP, "projection_dim": 64},
            "image_token_index": ids("<image>"),
            "projection_dim": 64,
            "hidden_size": 64,
            "vocab_size": ids.size,
        },
        processor=stock(
            PaliGemmaProcessor,
            image_processor=with_attributes(
                SiglipImageProcessorPil(size=SQUARE), image_seq_length=(SIDE // PATCH) ** 2
            ),
        ),
        named={"image_token": "<image>"},
        has_template=False,
    ),
    "got_ocr2": Row(
        config=lambda ids: {
            "text_config": {"model_type": "qwen2", **ids.text()},
            "vision_config": {
                "hidden_size": 32,
                "output_channels": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 256,
                "patch_size": 4,
                "window_size": 4,
                "global_attn_indexes": [1],
                "mlp_dim": 48,
                "initializer_range": 0.2,
            },
            "image_token_index": ids("<imgpad>"),
            "image_seq_length": 256,
        },
        processor=stock(
            GotOcr2Processor,
            image_processor=GotOcr2ImageProcessorPil(size={"height": 256, "width": 256}),
        ),
        image="<imgpad>",
        controls=("<img>", "</img>"),
    ),
    "qianfan_ocr": Row(
        config=lambda ids: {
            "text_config": {"model_type": "qwen3", **ids.text(head_dim=32)},
            "vision_config": {**VISION, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
            "image_token_id": ids("<IMG_CONTEXT>"),
            "image_seq_length": 4,
        },
        processor=stock(
            QianfanOCRProcessor,
            image_processor=GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
            image_seq_length=4,
        ),
        named=QIANFAN,
    ),
    "video_llava": Row(
        config=lambda ids: {
            "text_config": {"model_type": "llama", **ids.text()},
            "vision_config": CLIP,
            "image_token_index": ids("<image>"),
            "video_token_index": ids("<video>"),
            "image_seq_length": (SIDE // PATCH) ** 2,
        },
        processor=stock(
            VideoLlavaProcessor,
            image_processor=CLIPImageProcessorPil(size=SQUARE, do_center_crop=False),
            patch_size=PATCH,
        ),
        controls=("<video>",),
    ),
    "llava_next_video": Row(
        config=lambda ids: {
            "text_config": {"model_type": "llama", **ids.text()},
            "vision_config": CLIP,
            "image_token_index": ids("<image>"),
            "video_token_index": ids("<video>"),
            "image_grid_pinpoints": PINPOINTS,
        },
        processor=stock(
            LlavaNextVideoProcessor,
            image_processor=LlavaNextImageProcessorPil(
                size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS
            ),
            **CLS,
        ),
        controls=("<video>",),
    ),
    "deepseek_vl_hybrid": Row(
        config=lambda ids: {
            "text_config": {"model_type": "llama", **ids.text()},
            "vision_config": SIGLIP,
            "high_res_vision_config": {
                "model_type": "sam_vision_model",
                **VISION,
                "output_channels": 16,
                "image_size": 4 * SIDE,
                "patch_size": PATCH,
                "window_size": 4,
                "global_attn_indexes": [1],
                "mlp_dim": 48,
                "initializer_range": 0.2,
            },
            "image_token_id": ids("<image>"),
        },
        processor=stock(
            DeepseekVLHybridProcessor,
            image_processor=DeepseekVLHybridImageProcessorPil(
                size=SQUARE, high_res_size={"height": 4 * SIDE, "width": 4 * SIDE}
            ),
            num_image_tokens=(SIDE // PATCH) ** 2,
        ),
        named={"image_token": "<image>"},
    ),
}
# the same model type around a text model with soft caps and windows
VARIANTS: dict[str, Row] = {
    "paligemma 2": replace(
        ROWS["paligemma"],
        config=lambda ids: {
            **ROWS["paligemma"].config(ids),
            "text_config": {
                "model_type": "gemma2",
                **ids.text(head_dim=32, query_pre_attn_scalar=32),
                "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 30.0,
                "sliding_window": 16,
            },
        },
    )
}
