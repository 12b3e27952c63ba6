"""Models that the engine's benchmark runs: the embedded one, and configurations of real sizes with random
weights.

Random weights cost what trained ones cost. Nothing is downloaded: tokenizers are made of the words that are
asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from secondglance_server.engine.adapters import discover
from secondglance_server.engine.loader import (
    EMBEDDED,
    EMBEDDED_WEIGHTS,
    attention_setting,
    build_engine,
    load_engine,
)
from secondglance_server.engine.placement import place
from secondglance_server.engine.prefix import PrefixEngine

_WORDS = (
    "USER: ASSISTANT: What number is on the red sign ? color left Write a general description of image . "
    "system user assistant You are helpful"
)
_LLAVA_TEMPLATE = (
    "USER: {% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}<image>\n"
    "{% else %}{{ p.text }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
_QWEN_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
    "{% for m in messages %}<|im_start|>user\n{% for p in m.content %}{% if p.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class BenchmarkModel:
    build: Callable[[], PrefixEngine]
    needs_cuda: bool
    is_there: Callable[[], bool] = lambda: True


def available(*, has_cuda: bool) -> list[str]:
    """The models to run on this machine: small ones on a CPU, real sizes on an accelerator."""
    return [name for name, model in MODELS.items() if model.needs_cuda == has_cuda and model.is_there()]


def embedded() -> PrefixEngine:
    engine = load_engine(EMBEDDED)
    assert isinstance(engine, PrefixEngine)
    return engine


def llava_100m() -> PrefixEngine:
    """LLaVA-1.5's shape (576 image tokens) with 98 M parameters."""
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=640,
        intermediate_size=1728,
        num_hidden_layers=10,
        num_attention_heads=10,
        eos_token_id=2,
        pad_token_id=0,
    )
    vision = CLIPVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=336,
        patch_size=14,
    )
    return _llava("llava 100M", text, vision)


def llava_7b() -> PrefixEngine:
    """LLaVA-1.5-7B: Vicuna-7B and CLIP ViT-L/14 at 336 pixels."""
    text = LlamaConfig(vocab_size=32064, max_position_embeddings=4096, eos_token_id=2, pad_token_id=0)
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    return _llava("LLaVA-1.5-7B", text, vision)


def qwen_7b() -> PrefixEngine:
    """Qwen2.5-VL-7B."""
    tokenizer = _tokenizer(
        ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"), "<|im_end|>"
    )
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "tokens_per_second": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 576 * 28 * 28})
    return _engine("Qwen2.5-VL-7B", config, tokenizer, processor, _QWEN_TEMPLATE)


def _llava(name: str, text: LlamaConfig, vision: CLIPVisionConfig) -> PrefixEngine:
    tokenizer = _tokenizer(("<image>",), "</s>")
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    side = {"height": vision.image_size, "width": vision.image_size}
    processor = LlavaImageProcessorPil(do_pad=True, do_center_crop=False, size=side)
    return _engine(name, config, tokenizer, processor, _LLAVA_TEMPLATE)


def _engine(name: str, config: Any, tokenizer: Any, processor: Any, template: str) -> PrefixEngine:
    placement = place("auto", "auto", "auto")
    with torch.device(placement.device):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=placement.dtype, attn_implementation=attention_setting(placement.attention)
        )
    model = model.eval().requires_grad_(False)  # as the loader does: a weight to train cannot be recorded
    adapter = discover()[config.model_type](model, tokenizer, processor, template)
    return build_engine(adapter, name, placement=placement)


def _tokenizer(controls: tuple[str, ...], end: str) -> PreTrainedTokenizerFast:
    """A token for each word, as many as a real vocabulary has for these questions."""
    words = dict.fromkeys(["<unk>", *_WORDS.split()])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([end, *controls])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, unk_token="<unk>", extra_special_tokens=list(controls)
    )


MODELS = {
    "embedded": BenchmarkModel(embedded, needs_cuda=False, is_there=EMBEDDED_WEIGHTS.is_dir),
    "llava-100m": BenchmarkModel(llava_100m, needs_cuda=False),
    "llava-1.5-7b": BenchmarkModel(llava_7b, needs_cuda=True),
    "qwen2.5-vl-7b": BenchmarkModel(qwen_7b, needs_cuda=True),
}
