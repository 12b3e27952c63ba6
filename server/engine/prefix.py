"""The engine: one image prefix, everything else is an increment on its key/value cache.

A prompt is [prefix: template start and image tokens][suffix: question, template end]. The first question
about a picture runs both in one pass and keeps the prefix; the neutral prompt, the second stage and further
questions run their own tokens on top of it. An evicted prefix is computed again from the picture. Which
tokens, positions and features those are is the adapter's business. One thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from server.engine.adapters.protocol import Adapter, Chunk, ImageLayout, VisualFeatures
from server.engine.attention import recording
from server.engine.decode import decode_greedily
from server.engine.kv_cache import SLACK_TOKENS, empty_cache, keep_prefix, resume
from server.engine.prefix_store import PrefixStore, StoredPrefix
from server.engine.prompt import Prompt, PromptBuilder
from server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    EngineError,
    EngineInfo,
    Picture,
    TokenStats,
)

NEUTRAL_PROMPT = "Write a general description of the image."


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way: its prompt, the pictures' layouts (global first) and the prefix that is
    already there."""

    request: AnswerRequest
    prompt: Prompt
    layouts: list[ImageLayout]
    held: StoredPrefix | None = None

    @property
    def past(self) -> int:
        return self.prompt.prefix if self.held else 0

    @property
    def pictures_to_encode(self) -> list[Picture]:
        missing = [] if self.held else [self.request.picture]
        return missing + ([self.request.patch] if self.request.patch else [])


@dataclass(frozen=True, slots=True, eq=False)
class _Prefilled:
    """A batch whose prompts have run: what decoding goes on from."""

    logits: Tensor  # [B, vocabulary]
    maps: list[AttentionMap | None]
    cache: object
    visible: Tensor | None  # bool [B, prompt + room]
    next_positions: Tensor  # [B]
    axes: int
    length: int  # of the cache


class PrefixEngine:
    """Implements `Engine` for any adapter. `layers`: whose attention is read."""

    def __init__(
        self, adapter: Adapter, info: EngineInfo, *, layers: tuple[int, ...], cache_bytes: int
    ) -> None:
        self._adapter = adapter
        self._info = info
        self._layers = layers
        self._prompts = PromptBuilder(adapter)
        self._prefixes = PrefixStore(cache_bytes)
        self._device = adapter.model.device

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def prefixes(self) -> PrefixStore:
        return self._prefixes

    @torch.inference_mode()
    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        outcomes: dict[int, AnswerResult | EngineError] = {}
        waiting: dict[int, _Job] = {}
        for index, request in enumerate(requests):
            try:
                waiting[index] = self._job(request)
            except EngineError as exc:
                outcomes[index] = exc
        while waiting:
            batch = self._like_the_first(waiting)
            jobs = [waiting.pop(index) for index in batch]
            outcomes.update(zip(batch, self._answer_batch(jobs), strict=True))
        return [outcomes[i] for i in range(len(requests))]

    @torch.inference_mode()
    def neutral_attention(self, picture: Picture) -> AttentionMap:
        job = self._job(AnswerRequest(picture=picture, question=NEUTRAL_PROMPT, max_new_tokens=0))
        job.held = self._held(job)
        if job.held is not None and job.held.neutral is not None:
            return job.held.neutral
        try:
            attention = self._prefill([job]).maps[0]
        except (RuntimeError, ValueError) as exc:
            raise EngineError(f"{type(exc).__name__}: {exc}") from exc
        assert attention is not None
        held = self._prefixes.get(picture.key)
        if held is not None:
            held.neutral = attention
        return attention

    def close(self) -> None:
        self._prefixes.clear()
        self._adapter.model.to("meta")

    # -- batches of like work
    # -----------------------------------------------------------------------------------------

    def _like_the_first(self, waiting: dict[int, _Job]) -> list[int]:
        """The first waiting request and those that can run in its batch; looks up what of each is cached
        by now."""
        batch: list[int] = []
        fresh: set[str] = set()
        first: _Job | None = None
        for index, job in waiting.items():
            key = job.request.picture.key
            if key in fresh:
                continue  # its prefix is there in the next batch
            job.held = self._held(job)
            if first is not None and not self._alike(first, job):
                continue
            first = first or job
            batch.append(index)
            if job.held is None:
                fresh.add(key)
        return batch

    def _alike(self, one: _Job, other: _Job) -> bool:
        """Rows of a batch share the cached length, the prefix's length and the stage; suffixes may differ."""
        if one.prompt.prefix == 0 or other.prompt.prefix == 0:
            return False
        if not self._adapter.can_pad and len(one.prompt.ids) != len(other.prompt.ids):
            return False
        same_stage = (one.request.patch is None) == (other.request.patch is None)
        return same_stage and one.past == other.past and one.prompt.prefix == other.prompt.prefix

    def _job(self, request: AnswerRequest) -> _Job:
        pictures = [request.picture] + ([request.patch] if request.patch else [])
        try:
            layouts = [self._adapter.layout(p.rgb.shape[1], p.rgb.shape[0]) for p in pictures]
        except ValueError as exc:  # a size that the family's processor refuses
            raise EngineError(str(exc)) from exc
        return _Job(request, self._prompts.build(request.question, layouts), layouts)

    def _held(self, job: _Job) -> StoredPrefix | None:
        held = self._prefixes.get(job.request.picture.key)
        return held if held is not None and held.ids == job.prompt.ids[: job.prompt.prefix] else None

    def _answer_batch(self, jobs: list[_Job]) -> list[AnswerResult | EngineError]:
        """One failing request must not take others with it: a batch that fails is run again one by one."""
        try:
            return list(self._run(jobs))
        except (RuntimeError, ValueError) as exc:
            if len(jobs) == 1:
                return [EngineError(f"{type(exc).__name__}: {exc}")]
        return [self._answer_batch([job])[0] for job in jobs]

    # -- one batch on the device
    # --------------------------------------------------------------------------------------

    def _run(self, jobs: list[_Job]) -> list[AnswerResult]:
        started = time.perf_counter()
        state = self._prefill(jobs)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        prefilled = time.perf_counter()
        step = _Stepper(self._adapter, state)
        limits = [min(job.request.max_new_tokens, self._info.max_new_tokens) for job in jobs]
        decoded = decode_greedily(step, state.logits, limits, self._adapter.end_ids)
        generate_ms = 1e3 * (time.perf_counter() - prefilled)
        return [
            AnswerResult(
                text=self._adapter.tokenizer.decode(row.ids, skip_special_tokens=True).strip(),
                tokens=self._token_stats(row.ids, row.stats.tolist()),
                attention=attention,
                prompt_tokens=len(job.prompt.ids),
                cached_tokens=job.past,
                completion_tokens=len(row.ids),
                prefill_ms=1e3 * (prefilled - started),
                generate_ms=generate_ms,
            )
            for job, row, attention in zip(jobs, decoded, state.maps, strict=True)
        ]

    def _prefill(self, jobs: list[_Job]) -> _Prefilled:
        """Runs what is not cached of every prompt, keeps new prefixes and captures the attention of first
        stages."""
        past = jobs[0].past
        prefix = jobs[0].prompt.prefix
        longest = max(len(job.prompt.ids) for job in jobs)
        room = (
            longest - past + min(self._info.max_new_tokens, max(job.request.max_new_tokens for job in jobs))
        )
        if past:
            cache = resume([job.held.states for job in jobs if job.held], room)
        else:
            cache = empty_cache(self._adapter.n_layers, past + max(room, longest + SLACK_TOKENS))
        chunk, next_positions = self._chunk(jobs, past=past, longest=longest)
        maps: list[AttentionMap | None] = [None] * len(jobs)
        if jobs[0].request.patch is None:
            with recording(self._layers, jobs[0].prompt.grid) as recorder:
                logits = self._adapter.forward(chunk, cache)
            maps = self._maps(jobs, recorder.mean())
        else:
            logits = self._adapter.forward(chunk, cache)
        if not past and prefix:
            for row, job in enumerate(jobs):
                states = keep_prefix(cache, row, prefix)
                entry = StoredPrefix(job.prompt.ids[:prefix], job.layouts[0], states)
                self._prefixes.put(job.request.picture.key, entry)
        return _Prefilled(logits, maps, cache, chunk.visible, next_positions, len(chunk.positions), longest)

    def _chunk(self, jobs: list[_Job], *, past: int, longest: int) -> tuple[Chunk, Tensor]:
        """The batch's uncached tokens, padded between prefix and suffix; and each row's next position [B]."""
        adapter = self._adapter
        rows, positions, following = [], [], []
        for job in jobs:
            ids, cut = job.prompt.ids, job.prompt.prefix
            pads = longest - len(ids)
            places = adapter.positions(ids, job.layouts)  # [axes, tokens]
            gap = places.new_zeros(len(places), pads)
            rows.append(ids[past:cut] + [ids[0]] * pads + ids[cut:])
            positions.append(torch.cat([places[:, past:cut], gap, places[:, cut:]], dim=1))
            following.append(int(places.max()) + 1)
        tokens = torch.tensor(rows, device=self._device)
        is_image = tokens == adapter.image_token_id
        features = self._features(jobs)
        embeddings = adapter.embed(tokens)
        if features:
            embeddings[is_image] = torch.cat([f.tokens for f in features]).to(embeddings.dtype)
        return Chunk(
            embeddings=embeddings,
            positions=torch.stack(positions, dim=1).to(self._device),
            visible=self._visible(jobs, longest),
            is_image=is_image if features else None,
            features=features,
        ), torch.tensor(following, device=self._device)

    def _visible(self, jobs: list[_Job], longest: int) -> Tensor | None:
        if all(len(job.prompt.ids) == longest for job in jobs):
            return None
        visible = torch.ones(len(jobs), longest, dtype=torch.bool)
        for row, job in enumerate(jobs):
            cut = job.prompt.prefix
            visible[row, cut : cut + longest - len(job.prompt.ids)] = False
        return visible.to(self._device)

    def _features(self, jobs: list[_Job]) -> list[VisualFeatures]:
        """Features of the pictures whose tokens are in the chunk, row by row; pictures of like shape in
        one pass."""
        pixels = [self._adapter.pixels(p.rgb) for job in jobs for p in job.pictures_to_encode]
        alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for index, picture in enumerate(pixels):
            alike.setdefault(tuple(tuple(v.shape) for v in picture.values()), []).append(index)
        features: dict[int, VisualFeatures] = {}
        for indices in alike.values():
            encoded = self._adapter.encode([pixels[i] for i in indices])
            features.update(zip(indices, encoded, strict=True))
        return [features[i] for i in range(len(pixels))]

    def _maps(self, jobs: list[_Job], weights: Tensor) -> list[AttentionMap | None]:
        rows = weights.cpu().numpy().astype(np.float32)
        return [
            AttentionMap(row.reshape(job.layouts[0].rows, job.layouts[0].cols), job.layouts[0].content)
            for job, row in zip(jobs, rows, strict=True)
        ]

    def _token_stats(self, ids: list[int], stats: list[list[float]]) -> tuple[TokenStats, ...]:
        """Texts are what each token adds to the answer so far: pieces of a character show up with its last
        token."""
        result: list[TokenStats] = []
        before = ""
        for index, (min_entropy, shannon, margin) in enumerate(stats):
            text = self._adapter.tokenizer.decode(ids[: index + 1])
            result.append(TokenStats(text[len(before) :], min_entropy, shannon, margin))
            before = text
        return tuple(result)


class _Stepper:
    """Feeds one token a row to the model; the rows stay aligned because padding lies before the suffix."""

    def __init__(self, adapter: Adapter, state: _Prefilled) -> None:
        self._adapter, self._cache = adapter, state.cache
        self._visible = state.visible
        self._positions = state.next_positions[None, :, None].expand(state.axes, -1, -1)

    def __call__(self, tokens: Tensor) -> Tensor:
        if self._visible is not None:
            new = self._visible.new_ones(len(tokens), 1)
            self._visible = torch.cat([self._visible, new], dim=1)
        chunk = Chunk(self._adapter.embed(tokens[:, None]), self._positions, visible=self._visible)
        self._positions = self._positions + 1
        return self._adapter.forward(chunk, self._cache)
