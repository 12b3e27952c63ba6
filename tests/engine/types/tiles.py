"""More types whose pictures are cut into tiles, or squashed into one."""

from __future__ import annotations

from typing import Any

from transformers import (
    DeepseekOcr2Processor,
    Granite4VisionProcessor,
    GraniteDoclingProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_7Processor,
    PPChart2TableProcessor,
)
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil
from transformers.models.granite_docling.image_processing_pil_granite_docling import (
    GraniteDoclingImageProcessorPil,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.pp_chart2table.image_processing_pil_pp_chart2table import (
    PPChart2TableImageProcessorPil,
)

from tests.engine.types.free import LINEAR
from tests.engine.types.row import PATCH, SIDE, VISION, Ids, Row, stock
from tests.engine.types.squares import PINPOINTS, SIGLIP, SQUARE

SAM = {
    **VISION,
    "output_channels": 16,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
    "mlp_dim": 48,
    "initializer_range": 0.2,
}
MINICPM = {
    "image_token": "<image_pad>",
    "video_token": "<video_pad>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def minicpm(ids: Ids) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "qwen3_5_text", **ids.text(**LINEAR)},
        "vision_config": {**VISION, "image_size": 64, "patch_size": 8, "insert_layer_id": 0},
        "insert_layer_id": 0,
        "image_size": 64,
        "image_token_id": ids("<image_pad>"),
        "video_token_id": ids("<video_pad>"),
    }


MINICPM_PIL = MiniCPMV4_6ImageProcessorPil(patch_size=8, scale_resolution=64, max_slice_nums=4)

ROWS = {
    "granite_docling": Row(
        config=lambda ids: {
            "text_config": ids.text(),
            "vision_config": {
                **VISION,
                "image_size": 64,
                "patch_size": 8,
                "out_hidden_size": 64,
                "scale_factor": 2,
                "deepstack_visual_indexes": [0],
            },
            "image_token_id": ids("<image>"),
            "pad_token_id": ids("<pad>"),
        },
        processor=stock(
            GraniteDoclingProcessor,
            image_processor=GraniteDoclingImageProcessorPil(size={"height": 64, "width": 64}, max_patches=4),
            image_seq_len=16,
        ),
        controls=(
            "<fake_token_around_image>",
            "<global-img>",
            *(f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)),
        ),
    ),
    "minicpmv4_6": Row(
        config=minicpm,
        processor=stock(MiniCPMV4_6Processor, image_processor=MINICPM_PIL),
        image="<image_pad>",
        named=MINICPM,
    ),
    "minicpmv4_7": Row(
        config=lambda ids: {
            **minicpm(ids),
            "image_start_id": ids("<image>"),
            "image_end_id": ids("</image>"),
            "slice_start_id": ids("<slice>"),
            "slice_end_id": ids("</slice>"),
            "newline_id": ids("\n"),
        },
        processor=stock(MiniCPMV4_7Processor, image_processor=MINICPM_PIL),
        image="<image_pad>",
        named=MINICPM,
    ),
}

# a picture's features come by layer, from learned queries, or for tokens that only the template counts
ANSWERING = {
    "granite4_vision": Row(
        config=lambda ids: {
            "text_config": ids.text(),
            "vision_config": {**SIGLIP, "hidden_size": 64},
            "image_token_index": ids("<image>"),
            "image_grid_pinpoints": PINPOINTS,
            "vision_feature_select_strategy": "full",
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[-1, 0]],
            "spatial_target_layers": [1],
            "projector_dropout": 0.0,
            "qformer_config": {
                "model_type": "blip_2_qformer",
                "num_hidden_layers": 1,
                "intermediate_size": 48,
                "cross_attention_frequency": 1,
                "max_position_embeddings": 64,
                "use_qformer_text_input": False,
            },
        },
        processor=stock(
            Granite4VisionProcessor,
            image_processor=LlavaNextImageProcessorPil(
                size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS
            ),
            patch_size=PATCH,
            vision_feature_select_strategy="full",
            downsample_rate="1/2",
        ),
    ),
    "deepseek_ocr2": Row(
        config=lambda ids: {
            "text_config": ids.text(
                head_dim=32,
                n_routed_experts=4,
                num_experts_per_tok=2,
                n_shared_experts=1,
                moe_intermediate_size=32,
                mlp_layer_types=["dense", "sparse", "sparse"],
            ),
            "vision_config": {
                "sam_config": {
                    **SAM,
                    "image_size": 1024,
                    "patch_size": 16,
                    "global_attn_indexes": [],
                    "downsample_channels": [32, 64],
                },
                "encoder_config": {
                    "hidden_size": 64,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                },
            },
            "image_token_id": ids("<image>"),
        },
        processor=stock(
            DeepseekOcr2Processor,
            image_processor=DeepseekOcr2ImageProcessorPil(),
        ),
    ),
    "pp_chart2table": Row(
        config=lambda ids: {
            "text_config": {"model_type": "qwen2", **ids.text()},
            "vision_config": {**SAM, "image_size": 256, "patch_size": 4},
            "image_token_index": ids("<imgpad>"),
            "image_seq_length": 256,
        },
        processor=stock(
            PPChart2TableProcessor,
            image_processor=PPChart2TableImageProcessorPil(size={"height": 256, "width": 256}),
        ),
        image="<imgpad>" * 256,  # its own template writes them out
    ),
}
