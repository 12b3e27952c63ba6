"""From a name to an engine: the embedded model, a local directory or a hub id of a supported family.

Weights are safetensors and code is never taken from a model's repository. What was chosen automatically
stands with its reason in `EngineInfo.notes`.
"""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import numpy as np
import PIL.Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
)

import secondglance_server.engine.embedded.tower  # registers its encoder
import secondglance_server.engine.reader.model  # noqa: F401  # registers its class
from secondglance_server.engine.adapters import discover
from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.adapters.plain_prompts import plain_template
from secondglance_server.engine.attention import SOFTCAP, register_capture
from secondglance_server.engine.generic.load import choose_template, serve
from secondglance_server.engine.generic.processor import load_processor
from secondglance_server.engine.kv_cache import full_layers
from secondglance_server.engine.model_defaults import ModelDefaults, read_model_defaults
from secondglance_server.engine.placement import Placement, default_cache_bytes, place
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.prompt import PromptBuilder, first_that_places_pictures
from secondglance_server.engine.protocol import (
    AnswerRequest,
    EncoderBudget,
    Engine,
    EngineError,
    EngineInfo,
    Picture,
)
from secondglance_server.engine.steps import STEPS_BEFORE_RECORDING

_log = logging.getLogger("secondglance_server.engine")

EMBEDDED = "embedded"
EMBEDDED_WEIGHTS = pathlib.Path(__file__).parent / "embedded" / "weights"
READER = "reader"
READER_WEIGHTS = pathlib.Path(__file__).parent / "reader" / "weights"
_OWN_MODELS = {EMBEDDED: EMBEDDED_WEIGHTS, READER: READER_WEIGHTS}
_MAX_NEW_TOKENS = 256
# of a model's generation_config: what acts on greedy logits, with the values that leave them as they are
_LOGITS_SETTINGS: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "sequence_bias": (None, {}),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1.0),
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0.0),
}
_WARM_UP_TOKENS = 16  # as many as a request asks for by default: its caches have the same capacity


class ModelLoadError(Exception):
    """The model cannot be served; the message says what to change. A retry does not help."""


def load_engine(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "auto",
    decode: str = "auto",
    cache_bytes: int | None = None,
) -> Engine:
    """A loaded and warmed-up engine. `cache_bytes`: budget of the prefix cache, None for a share of what is
    free.

    Raises ModelLoadError.
    """
    source = str(_OWN_MODELS.get(model, model))
    max_pixels, had_progress_bar = PIL.Image.MAX_IMAGE_PIXELS, is_progress_bar_enabled()
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    try:
        placement = place(device, dtype, attn, decode)
        family, config = _family(source)
        defaults = read_model_defaults(pathlib.Path(source))
        if family is None:
            return _load_generic(model, source, config, placement, defaults, cache_bytes)
        adapter = _load_adapter(family, source, config, placement)
        engine = build_engine(adapter, model, placement=placement, defaults=defaults, cache_bytes=cache_bytes)
        _warm_up(engine)
    except Exception as exc:  # files and templates are somebody else's: any failure means the same
        raise ModelLoadError(f"model {model!r} cannot be loaded: {exc}") from exc
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = max_pixels  # some processors lift Pillow's limit for the whole process
        if had_progress_bar:
            enable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    return engine


def build_engine(
    adapter: TransformersAdapter,
    name: str,
    *,
    placement: Placement,
    defaults: ModelDefaults | None = None,
    cache_bytes: int | None = None,
) -> PrefixEngine:
    """The engine around a loaded adapter. Raises ValueError for defaults that do not fit the model."""
    defaults = defaults or ModelDefaults()
    reasons = list(placement.reasons)
    if cache_bytes is None:
        cache_bytes, reason = default_cache_bytes(placement.device)
        reasons.append(reason)
    layers = defaults.layers(adapter.layers, adapter.n_layers)
    localization = defaults.localization_defaults(adapter.localization)
    reasons.append(f"attention of layer(s) {list(layers)} of {adapter.n_layers}: {localization.origin}")
    if not adapter.can_pad:
        reasons.append("only questions of equal length share a batch: layers with a window cannot be padded")
    ignored = _ignored_processors(getattr(adapter.model, "generation_config", None))
    if ignored:
        reasons.append(f"generation_config's {', '.join(ignored)} is not applied: answers are plain greedy")
    prompts = PromptBuilder(adapter)
    if not prompts.starts_with_the_picture:
        reasons.append("no shared prefixes: this model's prompts do not start with the picture")
    info = EngineInfo(
        name=name,
        family=adapter.config.model_type,
        device=str(placement.device),
        dtype=str(placement.dtype).removeprefix("torch."),
        image=adapter.image,
        patch=adapter.patch,
        max_new_tokens=defaults.max_new_tokens or _MAX_NEW_TOKENS,
        usual_new_tokens=defaults.usual_new_tokens,
        gate=defaults.gate_defaults(),
        localization=localization,
        notes=tuple(reasons),
    )
    return PrefixEngine(
        adapter,
        prompts,
        info,
        layers=layers,
        cache_bytes=cache_bytes,
        is_recording=placement.is_recording,
    )


def attention_setting(attention: str) -> dict[str, str]:
    """Return transformers' `attn_implementation`: the capturing twin for the text model, SDPA elsewhere."""
    return {"": "sdpa", "text_config": register_capture(attention), "vision_config": "sdpa"}


def _ignored_processors(generation_config: Any) -> list[str]:
    """Return "name=value" of each setting that would change a greedy answer and is not honoured here."""
    names = [name for name in _LOGITS_SETTINGS if hasattr(generation_config, name)]
    given = {name: getattr(generation_config, name) for name in names}
    return [f"{name}={value!r}" for name, value in given.items() if value not in _LOGITS_SETTINGS[name]]


def _text_attention(text_config: Any, placement: Placement) -> str:
    """Return the text model's kernel: the one that was chosen, unless SDPA cannot compute its scores."""
    has_softcap = getattr(text_config, "attn_logit_softcapping", None) is not None
    return SOFTCAP if has_softcap and placement.attention == "sdpa" else placement.attention


def _load_generic(
    name: str,
    source: str,
    config: Any,
    placement: Placement,
    defaults: ModelDefaults,
    cache_bytes: int | None,
) -> Engine:
    """An engine for a model type that has no file of its own, as far as the probe finds it to fit."""
    processor = load_processor(source, config)
    placeholder = getattr(processor, "image_token", None)
    templates = _chat_templates(source, processor.tokenizer, plain_template(config.model_type, placeholder))
    template = choose_template(processor, templates, placeholder)
    try:
        model = _load_model(source, config, placement, "sdpa")
    except ValueError:  # some part of it has no SDPA
        model = _load_model(source, config, placement, "eager")
    reasons = list(placement.reasons)
    if cache_bytes is None:
        cache_bytes, reason = default_cache_bytes(placement.device)
        reasons.append(reason)
    info = EngineInfo(
        name=name,
        family=config.model_type,
        device=str(placement.device),
        dtype=str(placement.dtype).removeprefix("torch."),
        image=EncoderBudget(1, 1),
        patch=EncoderBudget(1, 1),
        max_new_tokens=defaults.max_new_tokens or _MAX_NEW_TOKENS,
        usual_new_tokens=defaults.usual_new_tokens,
        gate=defaults.gate_defaults(),
        notes=tuple(reasons),
    )
    served = serve(
        model,
        processor,
        template,
        info,
        defaults=defaults,
        attention=_text_attention(config.get_text_config(decoder=True), placement),
        cache_bytes=cache_bytes,
        is_recording=placement.is_recording,
    )
    if served.engine.info.answers_only is not None:
        _log.warning("the model only answers", extra={"reason": served.engine.info.answers_only})
    if isinstance(served.engine, PrefixEngine):
        _warm_up(served.engine)
    return served.engine


def _load_model(source: str, config: Any, placement: Placement, attention: Any) -> Any:
    model: Any = AutoModelForImageTextToText.from_pretrained(
        source,
        config=config,
        dtype=placement.dtype,
        attn_implementation=attention,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.to(placement.device).eval().requires_grad_(False)


def _family(source: str) -> tuple[type[TransformersAdapter] | None, Any]:
    """Return the family's file, None where the model is served like any, and the model's config."""
    adapters = discover()
    supported = ", ".join(adapters)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except ValueError as exc:
        raise ValueError(f"{exc} Supported model types: {supported}.") from exc
    family = adapters.get(config.model_type)
    if family is not None and family.serves(config):
        return family, config
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(
            f"model_type {config.model_type!r} is not supported: transformers has no "
            f"image-text-to-text model of it; with a file of their own: {supported}."
        )
    return None, config


def _load_adapter(
    family: type[TransformersAdapter], source: str, config: Any, placement: Placement
) -> TransformersAdapter:
    text_config = config.get_text_config()
    full_layers(text_config)  # refuses what cannot be served before gigabytes are read
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    templates = _chat_templates(source, tokenizer, family.default_chat_template)
    _, template = first_that_places_pictures(tokenizer, templates, family.placeholder)
    image_processor = family.load_image_processor(source, config)
    setting = attention_setting(_text_attention(text_config, placement))
    model = _load_model(source, config, placement, setting)
    return family(model, tokenizer, image_processor, template)


def _chat_templates(source: str, tokenizer: Any, default: str | None) -> list[tuple[str, str]]:
    """Return (name, template): the processor's, the tokenizer's, the family's; the default of each first."""
    processor, _ = ProcessorMixin.get_processor_dict(source)
    origins = {
        "processor": processor.get("chat_template"),
        "tokenizer": tokenizer.chat_template,
        "family": default,
    }
    found: list[tuple[str, str]] = []
    for origin, templates in origins.items():
        if isinstance(templates, list):  # as older releases saved named ones
            templates = {one["name"]: one["template"] for one in templates}
        named = templates if isinstance(templates, dict) else {"default": templates} if templates else {}
        default_first = sorted(named, key=lambda name: name != "default")
        found += [(f"the {origin}'s {name} template", named[name]) for name in default_first]
    return found


def _warm_up(engine: PrefixEngine) -> None:
    """Both stages once, and the neutral prompt where it is needed: kernels are chosen, steps recorded and
    memory is there before the first client."""
    budget = engine.info.image
    width, height = budget.max_width, budget.max_height
    if budget.max_pixels is not None:
        width = height = int(min(budget.max_pixels**0.5, width, height))
    grey = Picture("warm-up", np.full((height, width, 3), 128, np.uint8))
    first = AnswerRequest(grey, "What is this?", max_new_tokens=_WARM_UP_TOKENS)
    second = AnswerRequest(grey, "What is this?", patch=grey, max_new_tokens=_WARM_UP_TOKENS)
    engine.steps.patience = 0
    for request in (first, second):
        (outcome,) = engine.answer([request])
        if isinstance(outcome, EngineError):
            raise outcome
    engine.steps.patience = STEPS_BEFORE_RECORDING
    if engine.info.localization.attention == "relative":
        engine.neutral_attention(grey)
    engine.prefixes.clear()
