"""From options to a checked engine on vLLM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from secondglance_server.engine.checkpoint.refusals import refusal
from secondglance_server.engine.vllm.check import why_no_regions
from secondglance_server.engine.vllm.core import VllmCore
from secondglance_server.engine.vllm.front import Front, load_front
from secondglance_server.engine.vllm.inputs import InputBuilder
from secondglance_server.engine.vllm.launch import device_of_vllm, start_vllm, stop_vllm
from secondglance_server.engine.vllm.options import VllmOptions

_log = logging.getLogger(__name__)


async def load_vllm(options: VllmOptions, on_batch: Callable[[int], None] = lambda _: None) -> VllmCore:
    """Return the engine, warmed up by its check.

    `on_batch` is told, on the event loop, how many requests each step runs. Raises ModelLoadError for a
    model that cannot be served, and what vLLM raises.
    """
    cores: list[VllmCore] = []

    def note_step(running: int, cache_share: float) -> None:
        if running:
            on_batch(running)
        for core in cores:
            core.note_step(cache_share)

    front, llm = await asyncio.to_thread(_start, options, note_step)
    try:
        core = VllmCore(llm, front, _input_builder(front, llm), cache_bytes=_cache_bytes(llm))
        cores.append(core)
        reason = await why_no_regions(core, front.layer)
    except BaseException:
        await asyncio.to_thread(stop_vllm, llm)
        raise
    if reason is not None:
        _log.error("regions are off", extra={"reason": reason})
        core.info = replace(core.info, answers_only=reason)
    return core


def _start(options: VllmOptions, on_step: Callable[[int, float], None]) -> tuple[Front, Any]:
    device = device_of_vllm()
    try:
        front = load_front(options, device)
    except Exception as exc:  # files and templates are somebody else's
        explained = refusal(options.model, exc)
        if explained is None:
            raise
        raise explained from exc
    return front, start_vllm(front, options, on_step)


def _input_builder(front: Front, llm: Any) -> InputBuilder:
    from vllm.multimodal import MULTIMODAL_REGISTRY

    return InputBuilder(front, MULTIMODAL_REGISTRY.create_processor(llm.model_config))


def _cache_bytes(llm: Any) -> int:
    """Return the bytes of the paged cache on one device, 0 where vLLM does not say how many blocks it has."""
    config, model = llm.vllm_config, llm.model_config
    tokens = (config.cache_config.num_gpu_blocks or 0) * config.cache_config.block_size
    heads = model.get_num_kv_heads(config.parallel_config)
    layers = model.get_num_layers(config.parallel_config)
    return int(2 * tokens * heads * layers * model.get_head_size() * model.dtype.itemsize)
