"""From a name to an engine: the embedded model, a local directory or a hub id of a supported family.

Weights are safetensors and code is never taken from a model's repository. What can be known before the
weights are read is checked before: that the model can be served, that its files are whole, that it fits. What
was chosen automatically stands with its reason in `EngineInfo.notes`.
"""

from __future__ import annotations

import logging
import pathlib
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin
from transformers.quantizers.auto import AutoHfQuantizer

import secondglance_server.engine.embedded.tower  # registers its encoder
import secondglance_server.engine.reader.model  # noqa: F401  # registers its class
from secondglance_server.engine.adapters import discover
from secondglance_server.engine.adapters.base import TransformersAdapter
from secondglance_server.engine.adapters.plain_prompts import plain_template
from secondglance_server.engine.attention import SOFTCAP, register_capture
from secondglance_server.engine.checkpoint.devices import (
    Devices,
    parse_device_map,
    refuse_without_accelerate,
    spread,
)
from secondglance_server.engine.checkpoint.greedy import ignored_settings, note_of
from secondglance_server.engine.checkpoint.hub import find_model
from secondglance_server.engine.checkpoint.progress import logged_loading
from secondglance_server.engine.checkpoint.refusals import refusal
from secondglance_server.engine.checkpoint.weights import read_weights, refuse_broken_settings
from secondglance_server.engine.convolution import fold_convolutions
from secondglance_server.engine.generic.load import choose_template, placeholder_or_none, serve
from secondglance_server.engine.generic.processor import load_processor
from secondglance_server.engine.kv_cache import full_layers
from secondglance_server.engine.model_defaults import LocalizationSection, ModelDefaults, read_model_defaults
from secondglance_server.engine.placement import (
    Placement,
    default_cache_bytes,
    needs_several,
    place,
    refuse_too_large,
)
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.prompt import PromptBuilder, first_that_places_pictures
from secondglance_server.engine.protocol import (
    AnswerRequest,
    EncoderBudget,
    Engine,
    EngineError,
    EngineInfo,
    ModelLoadError,
    Picture,
)
from secondglance_server.engine.stepping.steps import STEPS_BEFORE_RECORDING

_log = logging.getLogger("secondglance_server.engine")

EMBEDDED = "embedded"
EMBEDDED_WEIGHTS = pathlib.Path(__file__).parent / "embedded" / "weights"
READER = "reader"
READER_WEIGHTS = pathlib.Path(__file__).parent / "reader" / "weights"
_OWN_MODELS = {EMBEDDED: EMBEDDED_WEIGHTS, READER: READER_WEIGHTS}
_MAX_NEW_TOKENS = 256
_WARM_UP_TOKENS = 16  # as many as a request asks for by default: its caches have the same capacity


def load_engine(
    model: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    device_map: str | None = None,
    dtype: str = "auto",
    attn: str = "auto",
    decode: str = "auto",
    localization: LocalizationSection | None = None,
    cache_bytes: int | None = None,
) -> Engine:
    """Return a loaded and warmed-up engine.

    `revision`: a branch, tag or commit of the hub. `device_map`: over several devices, as transformers names
    it. `localization`: measured, wins over the model's own. `cache_bytes`: budget of the prefix cache, None
    for a share of what is free. Raises ModelLoadError, with one line that says what to do.
    """
    max_pixels = PIL.Image.MAX_IMAGE_PIXELS
    try:
        placement = place(device, dtype, attn, decode)
        directory = find_model(
            str(_OWN_MODELS.get(model, model)),
            revision=revision,
            check=lambda found, download_bytes: _refuse_early(found, placement, download_bytes),
        )
        family, config = _family(str(directory))
        placement = _with_room(directory, config, placement, device_map, may_spread=device == "auto")
        defaults = read_model_defaults(directory)
        if localization is not None:
            defaults = defaults.model_copy(update={"localization": localization})
        if family is None:
            return _load_any(model, str(directory), config, placement, defaults, cache_bytes)
        with logged_loading(model):
            adapter = _load_adapter(family, str(directory), config, placement)
        engine = build_engine(adapter, model, placement=placement, defaults=defaults, cache_bytes=cache_bytes)
        _warm_up(engine)
    except Exception as exc:
        explained = refusal(model, exc)
        if explained is None:
            raise
        raise explained from exc
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = max_pixels  # some processors lift Pillow's limit for the whole process
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
    reasons = []
    if cache_bytes is None:
        cache_bytes, reason = default_cache_bytes(placement.device)
        reasons.append(reason)
    if not adapter.can_pad:
        reasons.append("only questions of equal length share a batch: layers with a window cannot be padded")
    prompts = PromptBuilder(adapter)
    if not prompts.starts_with_the_picture:
        reasons.append("no shared prefixes: this model's prompts do not start with the picture")
    layers, info = describe(
        adapter, name, placement=placement, defaults=defaults or ModelDefaults(), reasons=reasons
    )
    return PrefixEngine(
        adapter,
        prompts,
        info,
        layers=layers,
        cache_bytes=cache_bytes,
        is_recording=placement.is_recording,
    )


def describe(
    adapter: TransformersAdapter,
    name: str,
    *,
    placement: Placement,
    defaults: ModelDefaults,
    reasons: Sequence[str] = (),
) -> tuple[tuple[int, ...], EngineInfo]:
    """Return the layers whose attention is read, and what others may know of the model.

    `reasons` of further choices come between the placement's and the layers'. Raises ValueError for defaults
    that do not fit the model.
    """
    layers = defaults.layers(adapter.layers, adapter.n_layers)
    localization = defaults.localization_defaults(adapter.localization)
    notes = [*placement.reasons, *reasons]
    notes.append(f"attention of layer(s) {list(layers)} of {adapter.n_layers}: {localization.origin}")
    ignored = ignored_settings(getattr(adapter.model, "generation_config", None))
    if ignored:
        notes.append(note_of(ignored))
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
        domain=defaults.domain,
        recipes=defaults.recipes,
        notes=tuple(notes),
    )
    return layers, info


def attention_setting(attention: str) -> dict[str, str]:
    """Return transformers' `attn_implementation`: the capturing twin for the text model, SDPA elsewhere."""
    return {"": "sdpa", "text_config": register_capture(attention), "vision_config": "sdpa"}


def _text_attention(text_config: Any, placement: Placement) -> str:
    """Return the text model's kernel: the one that was chosen, unless SDPA cannot compute its scores."""
    has_softcap = getattr(text_config, "attn_logit_softcapping", None) is not None
    return SOFTCAP if has_softcap and placement.attention == "sdpa" else placement.attention


def _load_any(
    name: str,
    source: str,
    config: Any,
    placement: Placement,
    defaults: ModelDefaults,
    cache_bytes: int | None,
) -> Engine:
    """Return an engine for a model type that has no file of its own, as far as the probe finds it to fit."""
    processor = load_processor(source, config)
    placeholder = placeholder_or_none(processor)
    templates = _chat_templates(source, processor.tokenizer, None)
    plain = plain_template(config.model_type, placeholder)
    try:
        template = choose_template(processor, templates, placeholder, plain)
    except ValueError as exc:
        raise ModelLoadError(
            f"{exc}; put a chat_template.jinja that places images beside its config.json"
        ) from exc
    with logged_loading(name):
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
        domain=defaults.domain,
        recipes=defaults.recipes,
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


def _refuse_early(directory: pathlib.Path, placement: Placement, download_bytes: int | None) -> None:
    """Raise ModelLoadError for a model that cannot be served, or whose download would be too large."""
    refuse_broken_settings(directory)
    family, config = _family(str(directory))
    if family is not None:
        full_layers(config.get_text_config())
    _refuse_missing_packages(config)
    if download_bytes is None:
        return
    stored = getattr(config, "dtype", None)
    if isinstance(stored, torch.dtype) and not _is_quantized(config):
        needed = download_bytes * placement.dtype.itemsize // stored.itemsize
        refuse_too_large(needed, placement, as_stored=False)
    else:
        refuse_too_large(download_bytes, placement, as_stored=True)


def _family(source: str) -> tuple[type[TransformersAdapter] | None, Any]:
    """Return the family's file, None where the model is served like any, and the model's config."""
    adapters = discover()
    supported = ", ".join(adapters)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except ValueError as exc:
        if _brings_code(source):
            raise ModelLoadError(
                "it brings its own code (auto_map, trust_remote_code), which is never run here: take a port"
                f" to transformers. Supported model types: {supported}"
            ) from exc
        raise ValueError(f"{exc} Supported model types: {supported}.") from exc
    family = adapters.get(config.model_type)
    if family is not None and family.serves(config):
        return family, config
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ModelLoadError(
            f"model_type {config.model_type!r} is not supported: it is no vision-language model"
            f" (image-text-to-text); with a file of their own: {supported}"
        )
    return None, config


def _brings_code(source: str) -> bool:
    """Return whether config.json names classes of files beside it."""
    raw, _ = PretrainedConfig.get_config_dict(source)
    return "auto_map" in raw


def _refuse_missing_packages(config: Any) -> None:
    """Raise transformers' ImportError, which names the package, for a quantisation that lacks it."""
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)


def _load_adapter(
    family: type[TransformersAdapter], source: str, config: Any, placement: Placement
) -> TransformersAdapter:
    text_config = config.get_text_config()
    full_layers(text_config)  # refuses what cannot be served before gigabytes are read
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    templates = _chat_templates(source, tokenizer, family.default_chat_template)
    template = _usable_template(tokenizer, templates, family.placeholder)
    image_processor = family.load_image_processor(source, config)
    setting = attention_setting(_text_attention(text_config, placement))
    model = _load_model(source, config, placement, setting)
    return family(model, tokenizer, image_processor, template)


def _load_model(source: str, config: Any, placement: Placement, attention: Any) -> Any:
    """Return the model where the placement says. Raises ModelLoadError for weights with gaps."""
    options: dict[str, Any] = {}
    with ExitStack() as files:
        if placement.device_map is not None:
            options["device_map"] = dict(placement.device_map)
            if "disk" in placement.device_map.values():  # weights that differ from their files are written
                folder = TemporaryDirectory(prefix="second-glance-offload-", ignore_cleanup_errors=True)
                options["offload_folder"] = files.enter_context(folder)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            config=config,
            dtype=placement.dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            **options,
        )
        model, report = loaded
        _refuse_gaps(report)
        model = model.eval().requires_grad_(False)
        if placement.device_map is None and not _is_quantized(config):  # quantised ones are where they belong
            model = model.to(placement.device)
            if placement.device.type == "cpu" and placement.dtype == torch.float32:
                fold_convolutions(model)
        weakref.finalize(model, files.pop_all().close)  # at the process's end at the latest
    return model


def _is_quantized(config: Any) -> bool:
    return getattr(config, "quantization_config", None) is not None


def _with_room(
    directory: pathlib.Path, config: Any, placement: Placement, device_map: str | None, *, may_spread: bool
) -> Placement:
    """Return the placement, over several devices if that is asked for or, with `may_spread`, needed.

    Raises ModelLoadError for weights that are not whole, and for those that do not fit one device.
    """
    is_quantized = _is_quantized(config)
    needed = read_weights(directory).bytes_as(placement.dtype, is_quantized=is_quantized)
    if device_map is None and may_spread and needs_several(needed, placement):
        device_map = "auto"
    if device_map is None:
        refuse_too_large(needed, placement, as_stored=is_quantized)
        return placement
    refuse_without_accelerate()
    devices: str | Devices = parse_device_map(device_map)
    if isinstance(devices, str):
        devices = spread(devices, config, placement.dtype)
    names = ", ".join(sorted({str(device) for device in devices.values()}))
    reasons = (
        *placement.reasons[:-1],
        f"device_map over {names}",
        "decode eager: a step over several devices is not recorded",
    )
    return replace(placement, is_recording=False, reasons=reasons, device_map=devices)


def _refuse_gaps(report: Any) -> None:
    """Raise ModelLoadError where tensors are missing or misshapen: transformers fills in random numbers."""
    misshapen = sorted(str(name) for name, *_ in report["mismatched_keys"])
    missing = sorted(set(report["missing_keys"]) - set(misshapen))
    for names, complaint in (
        (missing, "are missing from its weights"),
        (misshapen, "do not fit its config.json"),
    ):
        if names:
            raise ModelLoadError(
                f"{len(names)} tensor(s) {complaint}, the first is {names[0]}: download it again"
            )


def _usable_template(tokenizer: Any, templates: list[tuple[str, str]], placeholder: str) -> str:
    try:
        return first_that_places_pictures(tokenizer, templates, placeholder)[1]
    except ValueError as exc:
        raise ModelLoadError(
            f"{exc}; put a chat_template.jinja that places images beside its config.json"
        ) from exc


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
