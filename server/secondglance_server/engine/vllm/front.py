"""The model as this process needs it: prompts, grids and budgets, without weights.

The same adapters and defaults as the prefix engine's, so that prompts, boxes and gates are the same. The
weights are vLLM's business.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

from secondglance_server.engine.adapters import discover
from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.embedded.tower import TowerConfig
from secondglance_server.engine.kv_cache import full_layers
from secondglance_server.engine.loader import (
    _OWN_MODELS,
    _chat_templates,
    _family,
    _text_attention,
    _usable_template,
    attention_setting,
    describe,
)
from secondglance_server.engine.model_defaults import read_model_defaults
from secondglance_server.engine.placement import Placement, place
from secondglance_server.engine.prompt import PromptBuilder
from secondglance_server.engine.protocol import EngineInfo, ModelLoadError
from secondglance_server.engine.vllm.options import VllmOptions


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """`source`: what vLLM loads. `layer`: whose attention is read."""

    adapter: TransformersAdapter
    prompts: PromptBuilder
    info: EngineInfo
    placement: Placement
    source: str
    layer: int

    @property
    def model_impl(self) -> str:
        """vLLM's name of the implementation: transformers' where vLLM's own cannot run.

        That is with our tower, which it does not know, and without torchvision, which its LLaVA imports by
        way of Pixtral: on a CPU it is not there (docs/vllm.md).
        """
        has_our_tower = self.adapter.config.vision_config.model_type == TowerConfig.model_type
        has_its_own = not has_our_tower and find_spec("torchvision") is not None
        return "auto" if has_its_own else "transformers"


def load_front(options: VllmOptions, device: str) -> Front:
    """Raises ModelLoadError for a model that is not served on vLLM, and what reading its files raises."""
    source = str(_OWN_MODELS.get(options.model, options.model))
    local = _without_weights(source, options)
    placement = place(device, options.dtype, "auto", "eager")
    _device, dtype_reason, *_ours = placement.reasons  # vLLM chooses kernels and steps itself
    placement = replace(placement, reasons=(f"vLLM on {device}", dtype_reason))
    adapter = _load_adapter(local, placement)
    defaults = read_model_defaults(pathlib.Path(local))
    if options.localization is not None:
        defaults = defaults.model_copy(update={"localization": options.localization})
    name = options.served_name or options.model
    layers, info = describe(adapter, name, placement=placement, defaults=defaults)
    if len(layers) != 1:
        raise ModelLoadError(f"attention of layers {list(layers)}: on vLLM one layer is read")
    return Front(adapter, PromptBuilder(adapter), info, placement, source, layers[0])


def _without_weights(source: str, options: VllmOptions) -> str:
    """Return a directory with the model's configuration, tokenizer and processor."""
    if pathlib.Path(source).is_dir():
        return source
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.jinja", "*.txt", "*.model"]
    return str(
        snapshot_download(
            source, revision=options.revision, cache_dir=options.download_dir, allow_patterns=patterns
        )
    )


def _load_adapter(source: str, placement: Placement) -> TransformersAdapter:
    """As the prefix engine's, around a model that has shapes and no weights."""
    family, config = _family(source)
    if family is None or not family.runs_on_vllm:
        tested = ", ".join(name for name, tested in discover().items() if tested.runs_on_vllm)
        raise ModelLoadError(f"model_type {config.model_type!r} was not tested on vLLM; tested: {tested}")
    text_config = config.get_text_config()
    full_layers(text_config)  # refuses what cannot be served
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    templates = _chat_templates(source, tokenizer, family.default_chat_template)
    template = _usable_template(tokenizer, templates, family.placeholder)
    image_processor = family.load_image_processor(source, config)
    attention = attention_setting(_text_attention(text_config, placement))
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]  # untyped there
            config, attn_implementation=attention
        )
    if (pathlib.Path(source) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source)  # which tokens end answers
    return family(model, tokenizer, image_processor, template)
