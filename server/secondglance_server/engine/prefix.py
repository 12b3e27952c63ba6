"""The engine: one image prefix, everything else is an increment on its key/value cache.

A prompt is [prefix: template start and image tokens][suffix: question, template end]. The first question
about a picture runs both in one pass and keeps the prefix; the neutral prompt, the second stage and further
questions run their own tokens on top of it. An evicted prefix is computed again from the picture. One thread
at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from secondglance_server.engine.adapters.protocol import Adapter
from secondglance_server.engine.decode import Decoded, decode_greedily
from secondglance_server.engine.jobs import Job, like_the_first
from secondglance_server.engine.prefill import Prefilled, prefill
from secondglance_server.engine.prefix_store import PrefixStore, StoredPrefix
from secondglance_server.engine.prompt import PromptBuilder
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    BrokenDeviceError,
    EngineError,
    EngineInfo,
    Picture,
    TokenStats,
)
from secondglance_server.engine.steps import StepRecorder

NEUTRAL_PROMPT = "Write a general description of the image."


class PrefixEngine:
    """Implements `Engine` for any adapter. `layers`: whose attention is read."""

    def __init__(
        self,
        adapter: Adapter,
        prompts: PromptBuilder,
        info: EngineInfo,
        *,
        layers: tuple[int, ...],
        cache_bytes: int,
        is_recording: bool = False,
    ) -> None:
        self.adapter = adapter
        self.prompts = prompts
        self.prefixes = PrefixStore(cache_bytes)
        self.layers = layers
        self.steps = StepRecorder(adapter, is_recording=is_recording)
        self._info = info
        self._device = adapter.model.device

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def held_bytes(self) -> int:
        return self.prefixes.held_bytes

    @torch.inference_mode()
    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        outcomes: dict[int, AnswerResult | EngineError] = {}
        waiting: dict[int, Job] = {}
        for index, request in enumerate(requests):
            try:
                waiting[index] = self._job(request)
            except Exception as exc:  # whatever it is, it is this request's own
                outcomes[index] = _own_failure(exc)
        while waiting:
            batch = like_the_first(waiting, self._held, can_pad=self.adapter.can_pad)
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
        except Exception as exc:  # a model's code may raise anything
            raise self._failure_of([job], exc) from exc
        assert attention is not None
        held = self._held(job)
        if held is not None:
            held.neutral = attention
        return attention

    def close(self) -> None:
        self.prefixes.clear()
        self.steps.clear()
        self.adapter.model.to("meta")

    def _job(self, request: AnswerRequest) -> Job:
        pictures = [request.picture] + ([request.patch] if request.patch else [])
        try:
            layouts = [self.adapter.layout(p.rgb.shape[1], p.rgb.shape[0]) for p in pictures]
        except ValueError as exc:  # a size that the family's processor refuses
            raise EngineError(str(exc)) from exc
        return Job(request, self.prompts.build(request.question, layouts), layouts)

    def _held(self, job: Job) -> StoredPrefix | None:
        held = self.prefixes.get(job.request.picture.key)
        return held if held is not None and held.ids == job.prompt.ids[: job.prompt.prefix] else None

    def _answer_batch(self, jobs: list[Job]) -> list[AnswerResult | EngineError]:
        """One failing request must not take others with it: a batch that fails is run again one by one."""
        try:
            return list(self._run(jobs))
        except Exception as exc:  # a model's code may raise anything
            failure = self._failure_of(jobs, exc)
            if len(jobs) == 1 and not _is_out_of_memory(exc):
                return [failure]
        return [self._answer_alone(job) for job in jobs]

    def _answer_alone(self, job: Job) -> AnswerResult | EngineError:
        try:
            return self._run([job])[0]
        except Exception as exc:  # a model's code may raise anything
            return self._failure_of([job], exc)

    def _failure_of(self, jobs: list[Job], exc: Exception) -> EngineError:
        """Return what the jobs failed of, with room made if it was memory. Raises BrokenDeviceError."""
        failure = _own_failure(exc)
        if _is_out_of_memory(exc):
            self._make_room(jobs)
        return failure

    def _make_room(self, jobs: list[Job]) -> None:
        """Gives the prefixes' memory back to the device: they can be computed again."""
        self.prefixes.clear()
        for job in jobs:
            job.held = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, jobs: list[Job]) -> list[AnswerResult]:
        started = time.perf_counter()
        state = self._prefill(jobs)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        prefilled = time.perf_counter()
        limits = [self._new_tokens(job) for job in jobs]
        decoded = decode_greedily(self.steps.step_from(state), state.logits, limits, self.adapter.end_ids)
        generated = time.perf_counter()
        return [
            AnswerResult(
                text=self.adapter.tokenizer.decode(row.ids, skip_special_tokens=True).strip(),
                tokens=self._token_stats(row),
                attention=attention,
                prompt_tokens=len(job.prompt.ids),
                cached_tokens=job.past,
                completion_tokens=len(row.ids),
                prefill_ms=1e3 * (prefilled - started),
                generate_ms=1e3 * (generated - prefilled),
                is_off_domain=self._is_off_domain(row.ids),
            )
            for job, row, attention in zip(jobs, decoded, state.maps, strict=True)
        ]

    def _is_off_domain(self, answer: Sequence[int]) -> bool | None:
        refusals = self.adapter.off_domain_ids
        return bool(answer) and answer[0] in refusals if refusals else None

    def _prefill(self, jobs: list[Job]) -> Prefilled:
        """Runs the prompts and keeps the prefixes that are new."""
        new_tokens = max(self._new_tokens(job) for job in jobs)
        state = prefill(self.adapter, jobs, layers=self.layers, new_tokens=new_tokens)
        for row, job in enumerate(jobs):
            length = job.prompt.prefix
            if job.held is None and length:
                prefix = StoredPrefix(job.prompt.ids[:length], state.prefix(row, length))
                self.prefixes.put(job.request.picture.key, prefix)
        return state

    def _new_tokens(self, job: Job) -> int:
        return min(job.request.max_new_tokens, self._info.max_new_tokens)

    def _token_stats(self, row: Decoded) -> tuple[TokenStats, ...]:
        """Texts are what each token adds to the answer: a character of several tokens comes with the last."""
        result: list[TokenStats] = []
        before = ""
        for index, (min_entropy, shannon, margin) in enumerate(row.stats.tolist()):
            text = self.adapter.tokenizer.decode(row.ids[: index + 1])
            result.append(TokenStats(text[len(before) :], min_entropy, shannon, margin))
            before = text
        return tuple(result)


def _own_failure(exc: Exception) -> EngineError:
    """Return the failure of one request. Raises BrokenDeviceError if no other would fare better."""
    if isinstance(exc, EngineError):
        return exc
    reason = f"{type(exc).__name__}: {exc}"
    if _is_broken_device(exc):
        raise BrokenDeviceError(reason) from exc
    failure = EngineError(reason)
    failure.__cause__ = exc
    return failure


def _is_out_of_memory(exc: Exception) -> bool:
    """Return whether there was no memory: on the CPU torch raises a plain RuntimeError for it."""
    if isinstance(exc, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(exc, RuntimeError) and any(
        sign in str(exc) for sign in ("DefaultCPUAllocator", "CUDA error: out of memory")
    )


def _is_broken_device(exc: Exception) -> bool:
    """Return whether the device's context is lost: after a CUDA assert every further call fails as well."""
    if _is_out_of_memory(exc) or not isinstance(exc, RuntimeError):
        return False
    signs = ("device-side assert", "CUDA error")
    return isinstance(exc, torch.AcceleratorError) or any(sign in str(exc) for sign in signs)
