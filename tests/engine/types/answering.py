"""Types that answer and ask for no region: what they look at is no grid of image tokens in the prompt."""

from __future__ import annotations

from typing import Any

from transformers import (
    AriaProcessor,
    Blip2Processor,
    BlipProcessor,
    ChameleonProcessor,
    Florence2Processor,
    GitProcessor,
    HunYuanVLProcessor,
    Idefics2Processor,
    InstructBlipProcessor,
    Kosmos2_5Processor,
    MllamaProcessor,
    Pix2StructProcessor,
)
from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.hunyuan_vl.image_processing_pil_hunyuan_vl import HunYuanVLImageProcessorPil
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.models.kosmos2_5.image_processing_pil_kosmos2_5 import Kosmos2_5ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.pix2struct.image_processing_pil_pix2struct import Pix2StructImageProcessorPil

from tests.engine.types.row import END, PATCH, SIDE, VISION, Ids, Row, stock
from tests.engine.types.squares import SQUARE, with_attributes

QFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "encoder_hidden_size": 32,
    "vocab_size": 300,
}
OPT = {"hidden_size": 64, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "init_std": 0.2}
BLIP_VISION = {**VISION, "image_size": SIDE, "patch_size": PATCH}
BLIP = BlipImageProcessorPil(size=SQUARE)
SQUASHED = CLIPImageProcessorPil(size=SQUARE, do_center_crop=False)
SQUASHED_TOO = CLIPImageProcessorPil(size=SQUARE, do_center_crop=False)
BART = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "init_std": 0.2,
}
T5 = {"hidden_size": 64, "d_kv": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2}


ARIA_SIDE = 980  # what its processor asks for, whatever its image processor says


def opt_text(ids: Ids) -> dict[str, Any]:
    """Return the settings of an OPT over this tokenizer's ids."""
    return {
        "model_type": "opt",
        **OPT,
        "vocab_size": ids.size,
        "word_embed_proj_dim": 64,
        "bos_token_id": ids("<s>"),
        "eos_token_id": ids(END),
        "pad_token_id": ids("<pad>"),
    }


CODES = "ABCDEFGHIJ"  # a digit each

ROWS = {
    "blip-2": Row(
        config=lambda ids: {
            "vision_config": BLIP_VISION,
            "qformer_config": QFORMER,
            "text_config": opt_text(ids),
            "num_query_tokens": 4,
            "image_token_index": ids("<image>"),
        },
        processor=stock(Blip2Processor, image_processor=BLIP, num_query_tokens=4),
        has_template=False,
    ),
    "instructblip": Row(
        config=lambda ids: {
            "vision_config": BLIP_VISION,
            "qformer_config": QFORMER,
            "text_config": opt_text(ids),
            "num_query_tokens": 4,
            "image_token_index": ids("<image>"),
        },
        processor=lambda tokenizer: stock(
            InstructBlipProcessor, image_processor=BLIP, num_query_tokens=4, qformer_tokenizer=tokenizer
        )(tokenizer),
        has_template=False,
    ),
    "blip": Row(
        config=lambda ids: {
            "vision_config": BLIP_VISION,
            "text_config": {
                **VISION,
                "encoder_hidden_size": 32,
                "vocab_size": ids.size,
                "bos_token_id": ids("<s>"),
                "eos_token_id": ids(END),
                "sep_token_id": ids(END),
                "pad_token_id": ids("<pad>"),
                "initializer_range": 0.2,
            },
        },
        processor=stock(BlipProcessor, image_processor=BLIP),
        has_template=False,
    ),
    "git": Row(
        config=lambda ids: {
            "vision_config": BLIP_VISION,
            "vocab_size": ids.size,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.2,
            "bos_token_id": ids("<s>"),
            "eos_token_id": ids(END),
            "pad_token_id": ids("<pad>"),
        },
        processor=stock(GitProcessor, image_processor=SQUASHED),
        has_template=False,
    ),
    "idefics2": Row(
        config=lambda ids: {
            "vision_config": {**VISION, "image_size": SIDE, "patch_size": PATCH},
            "perceiver_config": {
                "hidden_size": 64,
                "resampler_n_latents": 4,
                "resampler_depth": 1,
                "resampler_n_heads": 2,
                "resampler_head_dim": 32,
                "num_key_value_heads": 1,
            },
            "text_config": {"model_type": "mistral", **ids.text(sliding_window=None)},
            "image_token_id": ids("<image>"),
        },
        processor=stock(
            Idefics2Processor,
            image_processor=Idefics2ImageProcessorPil(
                size={"shortest_edge": PATCH, "longest_edge": SIDE}, do_image_splitting=False
            ),
            image_seq_len=4,
        ),
        controls=("<fake_token_around_image>", "<end_of_utterance>"),
    ),
    "mllama": Row(
        config=lambda ids: {
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "attention_heads": 2,
                "image_size": SIDE,
                "patch_size": PATCH,
                "vision_output_dim": 64,
                "max_num_tiles": 2,
                "intermediate_layers_indices": [0],
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            },
            "text_config": ids.text(
                num_hidden_layers=4,
                cross_attention_layers=[1],
                rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            ),
            "image_token_index": ids("<|image|>"),
        },
        processor=stock(
            MllamaProcessor, image_processor=MllamaImageProcessorPil(size=SQUARE, max_image_tiles=2)
        ),
        image="<|image|>",
        controls=("<|python_tag|>",),
    ),
    "florence2": Row(
        config=lambda ids: {
            "vision_config": {
                "depths": [1, 1],
                "patch_size": [7, 3],
                "patch_stride": [4, 2],
                "patch_padding": [3, 1],
                "patch_prenorm": [False, True],
                "embed_dim": [16, 32],
                "num_heads": [2, 2],
                "num_groups": [2, 2],
                "window_size": 4,
                "projection_dim": 64,
                "drop_path_rate": 0.0,
            },
            "text_config": {
                "model_type": "bart",
                **BART,
                "vocab_size": ids.size,
                "bos_token_id": ids("<s>"),
                "eos_token_id": ids(END),
                "pad_token_id": ids("<pad>"),
                "decoder_start_token_id": ids(END),
                "forced_bos_token_id": None,
                "forced_eos_token_id": None,
            },
            "image_token_id": ids("<image>"),
        },
        processor=stock(
            Florence2Processor,
            image_processor=with_attributes(SQUASHED_TOO, image_seq_length=50),
            num_additional_image_tokens=1,
        ),
        named={"image_token": "<image>"},
        has_template=False,
    ),
    "pix2struct": Row(
        config=lambda ids: {
            "vision_config": {
                "hidden_size": 64,
                "patch_embed_hidden_size": 3 * 16 * 16,
                "d_ff": 64,
                "d_kv": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "seq_len": 4096,
            },
            "text_config": {
                **T5,
                "vocab_size": ids.size,
                "eos_token_id": ids(END),
                "pad_token_id": ids("<pad>"),
                "decoder_start_token_id": ids("<pad>"),
            },
        },
        processor=stock(Pix2StructProcessor, image_processor=Pix2StructImageProcessorPil(max_patches=32)),
        has_template=False,
    ),
    "kosmos-2.5": Row(
        config=lambda ids: {
            "vision_config": {
                "hidden_size": 64,
                "patch_embed_hidden_size": 3 * 16 * 16,
                "intermediate_size": 64,
                "head_dim": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_num_patches": 4096,
            },
            "text_config": {
                "vocab_size": ids.size,
                "embed_dim": 64,
                "layers": 2,
                "ffn_dim": 64,
                "attention_heads": 2,
                "bos_token_id": ids("<s>"),
                "eos_token_id": ids(END),
                "pad_token_id": ids("<pad>"),
                "init_std": 0.2,
            },
            "latent_query_num": 4,
        },
        processor=stock(
            Kosmos2_5Processor,
            image_processor=Kosmos2_5ImageProcessorPil(max_patches=32),
            num_image_tokens=4,
        ),
        named={"boi_token": "<image>", "eoi_token": "</image>", "image_token": "<s_image>"},
        has_template=False,
    ),
    "chameleon": Row(
        config=lambda ids: {
            **ids.text(num_key_value_heads=2),
            "vq_config": {
                "embed_dim": 4,
                "num_embeddings": 10,
                "latent_channels": 8,
                "resolution": SIDE,
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1],
                "num_res_blocks": 1,
            },
            "vocabulary_map": {
                "<image>": ids("<image>"),
                **{f"IMGIMG{name}Z": ids(name[-1]) for name in CODES},
            },
        },
        processor=stock(
            ChameleonProcessor,
            image_processor=ChameleonImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE),
            image_seq_length=(SIDE // 4) ** 2,
        ),
        named={
            "image_token": "<image>",
            "boi_token": "<racm3:break>",
            "eoi_token": "<eoss>",
            "sep_token": "<sep>",
        },
    ),
    "aria": Row(
        config=lambda ids: {
            "text_config": ids.text(head_dim=32, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1),
            "vision_config": {**VISION, "image_size": ARIA_SIDE, "patch_size": ARIA_SIDE // 7},
            "projector_patch_to_query_dict": {49: 16},
            "image_token_index": ids("<image>"),
        },
        processor=stock(
            AriaProcessor,
            image_processor=AriaImageProcessorPil(max_image_size=ARIA_SIDE, min_image_size=336),
            size_conversion={ARIA_SIDE: 16},
        ),
        named={"image_token": "<image>"},
    ),
    "hunyuan_vl": Row(
        config=lambda ids: {
            "text_config": ids.text(
                head_dim=32,
                rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4] * 4},
            ),
            "vision_config": {
                **VISION,
                "num_key_value_heads": 2,
                "patch_size": 8,
                "max_image_size": 64,
                "min_image_size": 16,
                "out_hidden_size": 64,
                "text_hidden_size": 64,
            },
            "image_token_id": ids("<img>"),
            "im_start_id": ids("<im_start>"),
            "im_end_id": ids("<im_end>"),
            "im_newline_id": ids("<newline>"),
        },
        processor=stock(
            HunYuanVLProcessor,
            image_processor=HunYuanVLImageProcessorPil(
                patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
            ),
        ),
        image="<im_start><img><im_end>",
        controls=("<newline>",),
        named={"image_token": "<img>", "image_start_token": "<im_start>", "image_end_token": "<im_end>"},
    ),
}
