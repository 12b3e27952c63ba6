"""From a loaded model of any type to the engine that serves it, with what the probe found.

Three outcomes: prefixes are shared (`PrefixEngine`), or prompts run whole (`StockEngine`) with regions, or
prompts run whole and the model only answers. The reason for each step down is in the notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from secondglance_server.engine.attention import register_capture
from secondglance_server.engine.generic.adapter import GenericAdapter
from secondglance_server.engine.generic.probe import compare, find_grid
from secondglance_server.engine.generic.stock import StockEngine, StockPrompts
from secondglance_server.engine.model_defaults import ModelDefaults
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.prompt import PromptBuilder, first_that_places_pictures, rendered
from secondglance_server.engine.protocol import AttentionMap, EncoderBudget, EngineInfo, Picture

_ANSWERS_ONLY = EncoderBudget(1024, 1024)  # where the model does not say what its encoder uses


@dataclass(frozen=True, slots=True)
class Served:
    """An engine and what was found. `is_shared`: whether prefixes are."""

    engine: PrefixEngine | StockEngine
    is_shared: bool


def choose_template(processor: Any, candidates: Sequence[tuple[str, str]], placeholder: str | None) -> str:
    """Return the first template that places pictures, or at least one. Raises ValueError."""
    tokenizer = processor.tokenizer
    try:
        return first_that_places_pictures(tokenizer, candidates, placeholder or "\x04no placeholder")[1]
    except ValueError as exc:
        for _, template in candidates:
            try:
                with_one, with_none = (rendered(tokenizer, template, n, "?") for n in (1, 0))
            except ValueError:
                continue
            if with_one != with_none or placeholder is None:
                return template
        raise exc


def capture_attention(model: Any, attention: str) -> None:
    """Set the text model's layers to the capturing twin of the kernel `attention`.

    Raises ValueError where they have a kernel of their own only.
    """
    decoder = model.get_decoder()
    if not getattr(decoder, "_supports_sdpa", False):
        raise ValueError("its attention runs through no function that can be read")
    name = register_capture(attention)
    owners = [decoder, *(module for module in decoder.modules() if hasattr(module, "layer_idx"))]
    for config in {id(m.config): m.config for m in owners if hasattr(m, "config")}.values():
        config._attn_implementation = name


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
    notes = list(info.notes)
    end_ids = _end_ids(model, processor.tokenizer)
    try:
        adapter = GenericAdapter(model, processor, template)
        capture_attention(model, attention)
        found = find_grid(adapter, probe_sizes(adapter.image))
    except Exception as exc:  # whatever a model does not have or do: it answers all the same
        why = f"{exc}" if isinstance(exc, ValueError) else f"{type(exc).__name__}: {exc}"
        info = replace(
            info,
            image=_ANSWERS_ONLY,
            patch=_ANSWERS_ONLY,
            answers_only=why,
            notes=(*notes, f"answers only: {why}"),
        )
        prompts = StockPrompts(model, processor, template, _placeholder(processor))
        return Served(StockEngine(model, prompts, info, end_ids=end_ids), is_shared=False)
    adapter.use_grid(found.rule, found.content)
    layers = defaults.layers(adapter.layers, adapter.n_layers)
    localization = defaults.localization_defaults(adapter.localization)
    notes.append(f"picture's grid: {found.how} (probed)")
    notes.append(f"attention of layer(s) {list(layers)} of {adapter.n_layers}: {localization.origin}")
    info = replace(
        info, image=adapter.image, patch=adapter.patch, localization=localization, notes=tuple(notes)
    )
    stock = StockEngine(
        model,
        StockPrompts(model, processor, template, adapter.placeholder),
        info,
        layers=layers,
        read_map=_reader(adapter),
        end_ids=adapter.end_ids,
    )
    return _shared(stock, adapter, info, layers, cache_bytes, is_recording)


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
    try:
        adapter.check_cache()
        prompts = PromptBuilder(adapter)
        notes = list(info.notes)
        if not prompts.starts_with_the_picture:
            notes.append("no shared prefixes: this model's prompts do not start with the picture")
        if not adapter.can_pad:
            notes.append(
                "only questions of equal length share a batch: layers with a window cannot be padded"
            )
        engine = PrefixEngine(
            adapter,
            prompts,
            replace(info, notes=tuple(notes)),
            layers=layers,
            cache_bytes=cache_bytes,
            is_recording=is_recording,
        )
        why = compare(engine, stock, width, height, adapter.model.dtype, is_batched=True)
        engine.prefixes.clear()
    except Exception as exc:  # a model's code may raise anything
        why = f"{type(exc).__name__}: {exc}"
    if why is None:
        return Served(engine, is_shared=True)
    stock.add_note(f"every prompt runs whole: with a shared prefix {why}")
    return Served(stock, is_shared=False)


def probe_sizes(image: EncoderBudget) -> tuple[tuple[int, int], ...]:
    """Return (width, height) of a wide and a tall picture that the encoder can use."""
    side = (
        int(image.max_pixels**0.5) if image.max_pixels is not None else max(image.max_width, image.max_height)
    )
    return (side, max(side // 2, 1)), (max(side // 2, 1), side)


def _reader(adapter: GenericAdapter) -> Any:
    def read_map(weights: Tensor, ids: Sequence[int], picture: Picture) -> AttentionMap:
        layout = adapter.layout(picture.rgb.shape[1], picture.rgb.shape[0])
        images = [place for place, token in enumerate(ids) if token == adapter.image_token_id]
        places = [images[cell] for cell in layout.cells_of_run()]
        cells = weights[places].float().cpu().numpy()
        return AttentionMap(cells.reshape(layout.rows, layout.cols), layout.content)

    return read_map


def _placeholder(processor: Any) -> str:
    token = getattr(processor, "image_token", None)
    return str(getattr(token, "content", token) or "")


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    values = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return frozenset(value for value in values if isinstance(value, int))
