"""An engine that keeps the state of a picture's prefix and runs each question on a copy of it.

For models whose cache cannot be cut back to the prefix: linear attention and convolutions keep a state of
what they have seen, not a row for each token. One prompt at a time, each to its end. `load` serves a model
with it if it answers as stock `generate` does.
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from secondglance_server.engine.adapters.protocol import Chunk
from secondglance_server.engine.attention import recording
from secondglance_server.engine.decode import Decoded
from secondglance_server.engine.generic.adapter import GenericAdapter
from secondglance_server.engine.generic.stock import StockEngine, token_stats
from secondglance_server.engine.jobs import Job
from secondglance_server.engine.prefill import attention_maps, chunk_of, next_positions, texts_of
from secondglance_server.engine.prefix import is_out_of_memory, own_failure
from secondglance_server.engine.prefix_store import PrefixStore, StoredPrefix
from secondglance_server.engine.prompt import PromptBuilder
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    EngineError,
    EngineInfo,
    NeutralRequest,
)
from secondglance_server.engine.stepping.uncertainty import uncertainty


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The model's own cache after the prefix's last token; nothing writes into it."""

    cache: Cache

    @property
    def n_bytes(self) -> int:
        return sum(tensor.nbytes for layer in self.cache.layers for tensor in _tensors(vars(layer)))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


class SnapshotEngine(StockEngine):
    """Implements `Engine` over an adapter whose prompts start with the picture.

    Raises ValueError for prompts that do not. `cache_bytes`: for all pictures' states together.
    """

    def __init__(
        self, stock: StockEngine, adapter: GenericAdapter, info: EngineInfo, *, cache_bytes: int
    ) -> None:
        super().__init__(
            stock.model, stock.prompts, info, layers=stock.layers, adapter=adapter, end_ids=stock.end_ids
        )
        self._builder = PromptBuilder(adapter)
        if not self._builder.starts_with_the_picture:
            raise ValueError("its prompts do not start with the picture")
        self._adapter = adapter
        self.prefixes: PrefixStore[Snapshot] = PrefixStore(cache_bytes)

    @property
    def held_bytes(self) -> int:
        return self.prefixes.held_bytes

    def close(self) -> None:
        self.prefixes.clear()
        super().close()

    def _answer(self, request: AnswerRequest) -> AnswerResult | EngineError:
        """Return the answer; where memory is short, give up the pictures' states and try once more."""
        try:
            return self._run(request)
        except Exception as exc:  # a model's code may raise anything
            if not is_out_of_memory(exc):
                return own_failure(exc)
        self.prefixes.clear()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return super()._answer(request)

    @torch.inference_mode()
    def _run(self, request: AnswerRequest) -> AnswerResult:
        started = time.perf_counter()
        pictures = [request.picture] + ([request.patch] if request.patch else [])
        layouts = [self._adapter.layout(p.rgb.shape[1], p.rgb.shape[0]) for p in pictures]
        prompt = self._builder.build(request.question, layouts)
        start = replace(prompt, ids=prompt.ids[: prompt.prefix])
        held = self.prefixes.get(request.picture.key)
        is_held = held is not None and held.ids == start.ids
        if held is None or not is_held:
            held = self._computed(Job(NeutralRequest(request.picture), start, layouts[:1]))
        job = Job(request, prompt, layouts, held=held)
        chunk = chunk_of(self._adapter, [job], past=job.past, longest=len(prompt.ids))
        cache = deepcopy(held.states.cache)
        attention = None
        with recording(self.layers if request.patch is None else (), prompt.grid) as recorder:
            logits = self._adapter.forward(chunk, cache)
        if request.patch is None:
            (attention,) = attention_maps([job], recorder.mean(), texts_of([job], chunk.features))
        prefilled = time.perf_counter()
        answer = Decoded(max(min(request.max_new_tokens, self.info.max_new_tokens), 1))
        self._decode(answer, logits, next_positions(chunk.positions), cache)
        tokenizer = self.prompts.tokenizer
        return AnswerResult(
            text=tokenizer.decode(answer.ids, skip_special_tokens=True).strip(),
            tokens=token_stats(tokenizer, answer.ids, torch.tensor(answer.stats)),
            attention=attention,
            prompt_tokens=len(prompt.ids),
            cached_tokens=job.past if is_held else 0,
            completion_tokens=len(answer.ids),
            prefill_ms=1e3 * (prefilled - started),
            generate_ms=1e3 * (time.perf_counter() - prefilled),
        )

    def _decode(self, answer: Decoded, logits: Tensor, positions: Tensor, cache: Cache) -> None:
        """Take the most likely token until the answer ends. `positions` [axes, 1, 1]: its first token's."""
        while True:
            tokens, stats = uncertainty(logits)
            answer.take(int(tokens[0]), tuple(stats[0].tolist()), self.end_ids)
            if answer.is_done:
                return
            logits = self._adapter.forward(Chunk(self._adapter.embed(tokens[:, None]), positions), cache)
            positions = positions + 1

    def _computed(self, start: Job) -> StoredPrefix[Snapshot]:
        """Run a prompt that ends with its picture's prefix, and keep the state."""
        cache = DynamicCache(config=self._adapter.text_config)
        ids = start.prompt.ids
        self._adapter.forward(chunk_of(self._adapter, [start], past=0, longest=len(ids)), cache)
        prefix = StoredPrefix(ids, Snapshot(cache))
        self.prefixes.put(start.work.picture.key, prefix)
        return prefix
