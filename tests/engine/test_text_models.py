"""M1: whatever the text model, a row of a batch is answered as alone and as stock transformers answers it.

A text model with a sliding window or chunks once gave other answers in padded batches, silently. So each
kind of text model stands in a LLaVA config here: windows shorter than the prompt, chunks, grouped heads,
soft-capped scores, layers without positions, mixtures of layers; heads are 32 wide.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers import LlavaProcessor as Processor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from secondglance_server.engine.kv_cache import full_layers
from secondglance_server.engine.loader import ModelLoadError, load_engine
from secondglance_server.engine.prefix import PrefixEngine
from tests.engine import test_equalities as equalities
from tests.engine.conftest import Family
from tests.engine.tiny.llava import PATCH, SIDE, TEMPLATE
from tests.engine.tiny.parts import SIGLIP, Tiny, byte_tokenizer, chat, save_and_reload

WINDOW = 32  # tokens; the shortest prompt has 35
NEW_TOKENS = 10
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "initializer_range": 0.1,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
WINDOWED: Mapping[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    "ministral": {"sliding_window": WINDOW, "layer_types": MIXED},
    "mixtral": {"sliding_window": WINDOW, "num_local_experts": 2},
    "phi3": {"sliding_window": WINDOW},
    "starcoder2": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "gemma2": {"sliding_window": WINDOW, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 32},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": MIXED, "query_pre_attn_scalar": 32},
    "cohere2": {"sliding_window": WINDOW, "sliding_window_pattern": 2},
    "olmo3": {"sliding_window": WINDOW},
    "exaone4": {"sliding_window": WINDOW, "sliding_window_pattern": 2},
    "llama4_text": {"attention_chunk_size": WINDOW, "intermediate_size_mlp": 96, "num_local_experts": 2},
}
UNWINDOWED: Mapping[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"sliding_window": WINDOW},  # set, and switched off
    "smollm3": {},  # every fourth layer has no positions
    "granite": {"attention_multiplier": 0.1, "embedding_multiplier": 2.0},
    "gemma2": {"layer_types": ["full_attention"] * 3, "attn_logit_softcapping": 2.0},
}
STATEFUL: Mapping[str, dict[str, Any]] = {
    "qwen3_next": {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"]},
    "jamba": {"num_experts": 2, "use_mamba_kernels": False},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 32, "attn_layer_indices": [1]},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128},
}
QUESTIONS = ("Hi", "What number is on the red sign?", "What stands on the left of it?", "Ho")
KINDS = [*((name, options, True) for name, options in WINDOWED.items())]
KINDS += [(name, options, False) for name, options in UNWINDOWED.items()]


def build(directory: pathlib.Path, name: str, options: dict[str, Any]) -> Tiny:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    tokenizer.chat_template = TEMPLATE
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SIGLIP, image_size=SIDE, patch_size=PATCH),
        text_config=CONFIG_MAPPING[name](**{**SIZES, **options, "vocab_size": len(tokenizer)}),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = save_and_reload(LlavaForConditionalGeneration(config), directory)
    images = LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size={"height": SIDE, "width": SIDE})
    images.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    processor = Processor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return Tiny(name, directory, model, chat(processor), ("<image>",))


@pytest.fixture(scope="module", params=KINDS, ids=[f"{n}-{'window' if w else 'full'}" for n, _, w in KINDS])
def windowed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, bool]:
    """A text model in LLaVA, and whether some of its layers have a window."""
    name, options, is_windowed = request.param
    directory = tmp_path_factory.mktemp(name)
    tiny = build(directory, name, options)
    engine = load_engine(str(directory), device="cpu", dtype="float32")
    assert isinstance(engine, PrefixEngine)
    engine.steps.patience = 0  # record what can be recorded
    return Family(tiny, engine), is_windowed


def test_m1_a_row_of_a_batch_equals_alone_and_stock(windowed: tuple[Family, bool]) -> None:
    """On an empty cache and on held prefixes, in both stages: 4 x 4 answers of 10 tokens for each model."""
    family, _ = windowed
    for patch in (None, equalities.SQUARE):
        rgbs = [equalities.LANDSCAPE] if patch is None else [equalities.LANDSCAPE, patch]
        stock = [equalities.stock_generate(family, q, *rgbs, new_tokens=NEW_TOKENS) for q in QUESTIONS]
        requests = [
            equalities.ask(family, q, equalities.LANDSCAPE, patch, key=q, new_tokens=NEW_TOKENS)
            for q in QUESTIONS
        ]
        family.engine.prefixes.clear()
        alone = [equalities.answer(family, request)[0] for request in requests]
        family.engine.prefixes.clear()
        for _ in range(2):
            together = equalities.answer(family, *requests)
            for row, single, expected in zip(together, alone, stock, strict=True):
                equalities.assert_same(family, row, expected)
                assert [t.text for t in row.tokens] == [t.text for t in single.tokens]


def test_m1_rows_are_padded_only_where_no_layer_has_a_window(windowed: tuple[Family, bool]) -> None:
    family, is_windowed = windowed
    adapter = family.engine.adapter
    assert adapter.can_pad != is_windowed
    assert adapter.is_recordable != is_windowed
    assert any("layers with a window" in note for note in family.engine.info.notes) == is_windowed
    assert len(family.engine.prompts.build("Hi", [adapter.layout(72, 40)]).ids) > WINDOW


def test_m1_captured_attention_is_the_models_own(windowed: tuple[Family, bool]) -> None:
    """Soft-capped and windowed rows too."""
    family, _ = windowed
    family.engine.prefixes.clear()
    for question in QUESTIONS[:2]:
        (result,) = equalities.answer(family, equalities.ask(family, question, equalities.PORTRAIT))
        assert result.attention is not None
        expected = equalities.eager_attention(family, question, equalities.PORTRAIT)
        np.testing.assert_allclose(result.attention.weights, expected, atol=1e-6)


@pytest.mark.parametrize("name", STATEFUL)
def test_m1_a_text_model_with_another_kind_of_state_is_refused_by_name(
    tmp_path: pathlib.Path, name: str
) -> None:
    """A recurrent state cannot be cut back to the prefix: refused before the weights are read."""
    tokenizer = byte_tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    text = CONFIG_MAPPING[name](**{**SIZES, **STATEFUL[name], "vocab_size": len(tokenizer)})
    with pytest.raises(ValueError, match=name):
        full_layers(text)
    vision = CLIPVisionConfig(**SIGLIP, image_size=SIDE, patch_size=PATCH)
    LlavaConfig(vision_config=vision, text_config=text).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=f"{name}.* is not supported: layer"):
        load_engine(str(tmp_path), device="cpu")
