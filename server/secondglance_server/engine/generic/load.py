"""From a loaded model of any type to the engine that serves it, with what the probe found.

Outcomes: prefixes are shared as rows (`PrefixEngine`) or as a state (`SnapshotEngine`), or prompts run whole
(`StockEngine`) with regions, or prompts run whole and the model only answers. The reason for each step down
is in the notes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from secondglance_server.engine.attention import SOFTCAP, register_capture
from secondglance_server.engine.checkpoint.greedy import ignored_settings, note_of, plain_greedy
from secondglance_server.engine.generic.adapter import GenericAdapter, placeholder_of
from secondglance_server.engine.generic.probe import compare, differing_statistics, find_grid, squares
from secondglance_server.engine.generic.snapshot import SnapshotEngine
from secondglance_server.engine.generic.stock import StockEngine, StockPrompts
from secondglance_server.engine.model_defaults import ModelDefaults
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.prompt import PromptBuilder, first_that_places_pictures, rendered
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    EncoderBudget,
    EngineError,
    EngineInfo,
    ModelLoadError,
    Picture,
)

_FIRST_SIDE = 64  # pixels of the first picture
_ONE_AT_A_TIME = (
    "questions share a picture's state as a copy and run one at a time: this model's cache cannot be cut back"
)
_ANSWERS_ONLY = EncoderBudget(1024, 1024)  # where the model does not say what its encoder uses


@dataclass(frozen=True, slots=True)
class Served:
    """An engine and what was found. `is_shared`: whether prefixes are."""

    engine: PrefixEngine | StockEngine
    is_shared: bool


def choose_template(
    processor: Any, candidates: Sequence[tuple[str, str]], placeholder: str | None, plain: str | None
) -> str:
    """Return the first template that places pictures, or one at least. Raises ValueError.

    `plain`: the prompt of a type that is published without a template.
    """
    tokenizer = processor.tokenizer
    if plain is not None:
        candidates = [*candidates, ("the type's plain prompt", plain)]
    try:
        return first_that_places_pictures(tokenizer, candidates, placeholder or "\x04no placeholder")[1]
    except ValueError:
        for _, template in candidates:
            if template == plain or _places_one(tokenizer, template):
                return template
        raise


def _places_one(tokenizer: Any, template: str) -> bool:
    try:
        return rendered(tokenizer, template, 1, "?") != rendered(tokenizer, template, 0, "?")
    except ValueError:
        return False


def capture_attention(model: Any, attention: str) -> Callable[[], None]:
    """Set the text model's layers to the capturing twin of the kernel `attention`; return what undoes it.

    Raises ValueError where they have a kernel of their own only, or choose their tokens by its name.
    """
    decoder = model.get_decoder()
    if getattr(decoder.config, "index_topk", None) is not None:
        # Dense under any other name than sdpa and eager.
        raise ValueError("its layers choose the tokens that they look at, and read they would look at all")
    # transformers' own SDPA has no soft caps, ours has
    can_be_read = "_supports_attention_backend" if attention == SOFTCAP else "_supports_sdpa"
    if not getattr(decoder, can_be_read, False):
        raise ValueError("its attention runs through no function that can be read")
    name = register_capture(attention)
    owners = [decoder, *(module for module in decoder.modules() if hasattr(module, "layer_idx"))]
    configs = {id(m.config): m.config for m in owners if hasattr(m, "config")}.values()
    previous = [(config, config._attn_implementation) for config in configs]

    def undo() -> None:
        for config, kernel in previous:
            config._attn_implementation = kernel

    for config in configs:
        config._attn_implementation = name
    return undo


def serve(
    model: Any,
    processor: Any,
    template: str,
    info: EngineInfo,
    *,
    defaults: ModelDefaults,
    attention: str,
    cache_bytes: int,
    is_recording: bool,
) -> Served:
    """Return the best engine that the model allows.

    `info`: without budgets, layers and notes of its own. `attention`: the kernel to capture.
    """
    placeholder = placeholder_or_none(processor) or ""
    prompts = StockPrompts(model, processor, template, placeholder)
    end_ids = _end_ids(model, processor.tokenizer)
    unread = _first_answer(StockEngine(model, prompts, info, end_ids=end_ids))
    undo = _nothing
    try:
        if getattr(model.config, "is_encoder_decoder", False):
            raise ValueError("its answers come from a decoder of its own, which sees no picture's tokens")
        adapter = GenericAdapter(model, processor, template)
        undo = capture_attention(model, attention)
        found = find_grid(adapter, probe_sizes(adapter.image))
        adapter.use_grid(found.rule, found.content)
        layers = defaults.layers(adapter.layers, adapter.n_layers)
        localization = defaults.localization_defaults(adapter.localization)
        notes = (
            *info.notes,
            f"picture's grid: {found.how} (probed)",
            f"attention of layer(s) {list(layers)} of {adapter.n_layers}: {localization.origin}",
        )
        info_of_regions = replace(
            info, image=adapter.image, patch=adapter.patch, localization=localization, notes=notes
        )
        stock = StockEngine(
            model, prompts, info_of_regions, layers=layers, adapter=adapter, end_ids=adapter.end_ids
        )
        _refuse_other_answer(_first_answer(stock), unread, rounding_of(model))
    except Exception as exc:  # whatever a model does not have or do: it may answer all the same
        undo()
        why = str(exc) if isinstance(exc, (ValueError, ModelLoadError)) else f"{type(exc).__name__}: {exc}"
    else:
        return _shared(stock, adapter, info_of_regions, layers, cache_bytes, is_recording)
    notes = (*info.notes, f"answers only: {why}")
    info = replace(info, image=_ANSWERS_ONLY, patch=_ANSWERS_ONLY, answers_only=why, notes=notes)
    return Served(StockEngine(model, prompts, info, end_ids=end_ids), is_shared=False)


def _nothing() -> None:
    """Undo nothing: the attention is the model's own."""


def _first_answer(stock: StockEngine) -> AnswerResult:
    """Return the answer to a first question. Raises ModelLoadError where `generate` itself fails."""
    picture = Picture("first", squares(_FIRST_SIDE, _FIRST_SIDE, 0))
    (outcome,) = stock.answer([AnswerRequest(picture, "What is this?", max_new_tokens=2)])
    if isinstance(outcome, EngineError):
        raise ModelLoadError(f"it does not answer a question about a picture: {outcome}")
    return outcome


def _refuse_other_answer(read: AnswerResult, unread: AnswerResult, dtype: torch.dtype) -> None:
    """Raise ValueError where a model answers otherwise as soon as its attention is read."""
    why = differing_statistics(read, unread, dtype)
    if why is not None:
        raise ValueError(f"reading its attention would change its answers: {why}")


def _shared(
    stock: StockEngine,
    adapter: GenericAdapter,
    info: EngineInfo,
    layers: tuple[int, ...],
    cache_bytes: int,
    is_recording: bool,
) -> Served:
    """Return an engine that shares prefixes if it answers as stock does, else stock with the reason."""
    width, height = probe_sizes(adapter.image)[0]
    if ignored := ignored_settings(adapter.model.generation_config):
        info = replace(info, notes=(*info.notes, note_of(ignored)))
    engine: PrefixEngine | SnapshotEngine
    try:
        if adapter.can_cut_back:
            engine = _prefix_engine(adapter, info, layers, cache_bytes, is_recording)
        else:
            info = replace(info, notes=(*info.notes, _ONE_AT_A_TIME))
            engine = SnapshotEngine(stock, adapter, info, cache_bytes=cache_bytes)
        with plain_greedy(adapter.model.generation_config):
            why = compare(engine, stock, width, height, rounding_of(adapter.model), is_batched=True)
        engine.prefixes.clear()
    except Exception as exc:  # a model's code may raise anything
        why = f"{type(exc).__name__}: {exc}"
    if why is None:
        return Served(engine, is_shared=True)
    stock.add_note(f"every prompt runs whole: with a shared prefix {why}")
    return Served(stock, is_shared=False)


def _prefix_engine(
    adapter: GenericAdapter,
    info: EngineInfo,
    layers: tuple[int, ...],
    cache_bytes: int,
    is_recording: bool,
) -> PrefixEngine:
    prompts = PromptBuilder(adapter)
    notes = list(info.notes)
    if not prompts.starts_with_the_picture:
        notes.append("no shared prefixes: this model's prompts do not start with the picture")
    if not adapter.can_pad:
        notes.append("only questions of equal length share a batch: layers with a window cannot be padded")
    return PrefixEngine(
        adapter,
        prompts,
        replace(info, notes=tuple(notes)),
        layers=layers,
        cache_bytes=cache_bytes,
        is_recording=is_recording,
    )


def rounding_of(model: Any) -> torch.dtype:
    """Return the type that rounds as the model does: some quantised ones depend on what runs together."""
    dtype: torch.dtype = torch.float16 if getattr(model, "is_quantized", False) else model.dtype
    return dtype


def probe_sizes(image: EncoderBudget) -> tuple[tuple[int, int], ...]:
    """Return (width, height) of a wide and a tall picture that the encoder can use."""
    side = (
        int(image.max_pixels**0.5) if image.max_pixels is not None else max(image.max_width, image.max_height)
    )
    return (side, max(side // 2, 1)), (max(side // 2, 1), side)


def placeholder_or_none(processor: Any) -> str | None:
    """Return what a chat template writes for a picture, None where pictures are not written into the text."""
    try:
        return placeholder_of(processor)
    except ValueError:
        token: Any = getattr(processor, "image_token", None)
        text: str | None = getattr(token, "content", token)
        return text


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    values = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return frozenset(value for value in values if isinstance(value, int))
