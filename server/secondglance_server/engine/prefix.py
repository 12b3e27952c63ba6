"""The engine: one image prefix, everything else is an increment on its key/value cache.

A prompt is [prefix: template start and image tokens][suffix: question, template end]. The first question
about a picture runs both in one pass and keeps the prefix; the neutral prompt, the second stage and further
questions run their own tokens on top of it. An evicted prefix is computed again from the picture.

Answers take their steps together, whatever their prompts: those that begin join the others, those that end
leave. A model whose rows cannot be padded keeps each batch as it began. One thread at a time; only `prepare`
is for any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

import torch

from secondglance_server.engine.adapters.protocol import Adapter
from secondglance_server.engine.decode import DecodeBatch, Decoded
from secondglance_server.engine.jobs import Job, like_the_first
from secondglance_server.engine.kv_cache import PrefixStates
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
    NeutralRequest,
    Picture,
    Prepared,
    Progress,
    TokenStats,
    Work,
)
from secondglance_server.engine.stepping.steps import StepRecorder
from secondglance_server.engine.token_texts import TokenTexts

NEUTRAL_PROMPT = "Write a general description of the image."

Outcome: TypeAlias = AnswerResult | AttentionMap | EngineError


@dataclass(slots=True, eq=False)
class _Answering:
    """An answer that runs. `n_seen`: of the decoded tokens, those that `texts` has seen; `tokens`: those
    whose texts are known."""

    key: int
    job: Job
    decoded: Decoded
    texts: TokenTexts
    attention: AttentionMap | None
    prefill_ms: float
    prefilled_at: float
    n_seen: int = 0
    tokens: list[TokenStats] = field(default_factory=list)


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
        self.prefixes: PrefixStore[PrefixStates] = PrefixStore(cache_bytes)
        self.layers = layers
        self.steps = StepRecorder(adapter, is_recording=is_recording)
        self._info = info
        self._device = adapter.model.device
        self._tokenizing = threading.Lock()  # a tokenizer is set for each call, and two threads use it
        self._processing = threading.Lock()  # around the image processor, for the same reason
        self._batches: list[DecodeBatch] = []
        self._shared: DecodeBatch | None = None  # of the batches, the one that others join
        self._answering: dict[Decoded, _Answering] = {}

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def held_bytes(self) -> int:
        return self.prefixes.held_bytes

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        return cast("list[AnswerResult | EngineError]", self._finish(requests))

    def neutral_attention(self, picture: Picture) -> AttentionMap:
        (outcome,) = self._finish([NeutralRequest(picture)])
        if isinstance(outcome, EngineError):
            raise outcome
        assert isinstance(outcome, AttentionMap)
        return outcome

    def prepare(self, work: Work) -> Job:
        try:
            return self._job(work)
        except Exception as exc:  # whatever it is, it is this work's own
            raise own_failure(exc) from exc

    def choose(self, waiting: Sequence[Prepared]) -> list[int]:
        jobs = cast("Sequence[Job]", waiting)
        return like_the_first(jobs, self._held, can_pad=self.adapter.can_pad)

    @torch.inference_mode()
    def begin(self, batch: Mapping[int, Prepared]) -> list[Progress]:
        jobs = dict(cast("Mapping[int, Job]", batch))
        ready: list[Progress] = []
        for key, job in batch.items():
            if isinstance(job.work, NeutralRequest) and jobs[key].neutral is not None:
                ready.append(Progress(key, outcome=jobs.pop(key).neutral))
        return ready + (self._begin(jobs) if jobs else [])

    @torch.inference_mode()
    def step(self) -> list[Progress]:
        progress: list[Progress] = []
        for batch in self._live():
            answering = [self._answering[decoded] for decoded in batch.answers]
            try:
                batch.step(self.steps.step)
            except Exception as exc:  # a model's code may raise anything
                progress += self._begin_again(answering, exc)
            else:
                progress += self._news(answering)
        return progress

    @torch.inference_mode()
    def drop(self, key: int) -> None:
        self._forget([each for each in self._answering.values() if each.key == key])

    def close(self) -> None:
        self._batches.clear()
        self._answering.clear()
        self.prefixes.clear()
        self.steps.clear()
        model = self.adapter.model
        if not getattr(model, "hf_device_map", None) and not getattr(model, "is_quantized", False):
            model.to("meta")  # others refuse to move; their memory goes with the last reference

    def _finish(self, works: Sequence[Work]) -> list[Outcome]:
        """Begin all of them, as many at a time as can, and step until the last has its outcome."""
        outcomes: dict[int, Outcome] = {}
        waiting: dict[int, Job] = {}
        for key, work in enumerate(works):
            try:
                waiting[key] = self.prepare(work)
            except EngineError as exc:
                outcomes[key] = exc
        try:
            while len(outcomes) < len(works):
                keys = list(waiting)
                chosen = [keys[index] for index in self.choose(list(waiting.values()))]
                progress = self.begin({key: waiting.pop(key) for key in chosen}) + self.step()
                outcomes |= {each.key: each.outcome for each in progress if each.outcome is not None}
        finally:
            self._forget(list(self._answering.values()))
        return [outcomes[key] for key in range(len(works))]

    def _job(self, work: Work) -> Job:
        question, patch = NEUTRAL_PROMPT, None
        if isinstance(work, AnswerRequest):
            question, patch = work.question, work.patch
        pictures = [work.picture] + ([patch] if patch else [])
        try:
            layouts = [self.adapter.layout(p.rgb.shape[1], p.rgb.shape[0]) for p in pictures]
        except ValueError as exc:  # a size that the family's processor refuses
            raise EngineError(str(exc)) from exc
        with self._tokenizing:
            prompt = self.prompts.build(question, layouts)
        job = Job(work, prompt, layouts)
        missing = [] if work.picture.key in self.prefixes else [work.picture]
        with self._processing:
            for picture in (*missing, *([patch] if patch else [])):
                job.pixels[picture.key] = self.adapter.pixels(picture.rgb)
        return job

    def _held(self, job: Job) -> StoredPrefix[PrefixStates] | None:
        held = self.prefixes.get(job.work.picture.key)
        return held if held is not None and held.ids == job.prompt.ids[: job.prompt.prefix] else None

    def _begin(self, jobs: Mapping[int, Job]) -> list[Progress]:
        """One failing job must not take others with it: a batch that fails is begun again one by one."""
        try:
            return self._start(jobs)
        except Exception as exc:  # a model's code may raise anything
            failure = self._failure_of(list(jobs.values()), exc)
            if len(jobs) == 1 and not is_out_of_memory(exc):
                return [Progress(key, outcome=failure) for key in jobs]
        return [progress for key, job in jobs.items() for progress in self._begin_alone(key, job)]

    def _begin_alone(self, key: int, job: Job) -> list[Progress]:
        try:
            return self._start({key: job})
        except Exception as exc:  # a model's code may raise anything
            return [Progress(key, outcome=self._failure_of([job], exc))]

    def _begin_again(self, answering: Sequence[_Answering], exc: Exception) -> list[Progress]:
        """After a step that failed, answer each from its beginning, once and in a batch of its own."""
        self._forget(answering)
        failure = self._failure_of([each.job for each in answering], exc)
        is_its_own = len(answering) == 1 and not is_out_of_memory(exc)
        progress: list[Progress] = []
        for each in answering:
            if is_its_own or each.job.is_second_try:
                progress.append(Progress(each.key, outcome=failure))
            else:
                each.job.is_second_try, each.job.n_given_out = True, len(each.tokens)
                progress += self._begin_alone(each.key, each.job)
        return progress

    def _failure_of(self, jobs: Sequence[Job], exc: Exception) -> EngineError:
        """Return what the jobs failed of, with room made if it was memory. Raises BrokenDeviceError."""
        failure = own_failure(exc)
        if is_out_of_memory(exc):
            self._make_room(jobs)
        return failure

    def _make_room(self, jobs: Sequence[Job]) -> None:
        """Gives the prefixes' memory back to the device: they can be computed again."""
        self.prefixes.clear()
        for job in jobs:
            job.held = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _start(self, jobs: Mapping[int, Job]) -> list[Progress]:
        """Run the prompts and take each answer's first token."""
        started = time.perf_counter()
        state = self._prefill(list(jobs.values()))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        prefilled = time.perf_counter()
        limits = [self._new_tokens(job) for job in jobs.values()]
        decoded = [Decoded(limit) for limit in limits]
        batch = DecodeBatch(state.rows(limits), decoded, state.logits, self.adapter.end_ids)
        self._run(batch, alone=any(job.is_second_try for job in jobs.values()))
        progress: list[Progress] = []
        answering: list[_Answering] = []
        for (key, job), one, attention in zip(jobs.items(), decoded, state.maps, strict=True):
            if isinstance(job.work, NeutralRequest):
                progress.append(Progress(key, outcome=attention))
                continue
            texts = TokenTexts(self.adapter.tokenizer.decode)
            prefill_ms = 1e3 * (prefilled - started)
            answering.append(_Answering(key, job, one, texts, attention, prefill_ms, prefilled))
        self._answering |= {each.decoded: each for each in answering}
        return progress + self._news(answering)

    def _is_off_domain(self, answer: Sequence[int]) -> bool | None:
        refusals = self.adapter.off_domain_ids
        return bool(answer) and answer[0] in refusals if refusals else None

    def _prefill(self, jobs: Sequence[Job]) -> Prefilled:
        """Run the prompts; keep the prefixes that are new, and the maps of neutral prompts."""
        new_tokens = max(self._new_tokens(job) for job in jobs)
        state = prefill(
            self.adapter, jobs, layers=self.layers, new_tokens=new_tokens, in_place=not self._is_lent(jobs[0])
        )
        for row, job in enumerate(jobs):
            length = job.prompt.prefix
            if job.held is None and length:
                prefix = StoredPrefix(job.prompt.ids[:length], state.prefix(row, length), state.texts[row])
                self.prefixes.put(job.work.picture.key, prefix)
            if isinstance(job.work, NeutralRequest) and (held := self._held(job)) is not None:
                held.neutral = state.maps[row]
            job.pixels.clear()
        return state

    def _is_lent(self, job: Job) -> bool:
        """Whether an answer that runs is being written behind the job's prefix."""
        if job.held is None:
            return False
        buffer = job.held.states.layers[0][0]
        return any(batch.rows.is_in(buffer) for batch in self._live())

    def _run(self, batch: DecodeBatch, *, alone: bool) -> None:
        """Let the batch take its steps, with the others if it can join them."""
        live = self._live()
        if not batch.answers:  # none takes a step: all have ended with their first token
            return
        if alone or not self.adapter.can_pad:
            self._batches = [*live, batch]
        elif self._shared in live:
            self._shared.join(batch)
        else:
            self._batches, self._shared = [*live, batch], batch

    def _live(self) -> list[DecodeBatch]:
        self._batches = [batch for batch in self._batches if batch.answers]
        return self._batches

    def _forget(self, answering: Sequence[_Answering]) -> None:
        for each in answering:
            self._answering.pop(each.decoded, None)
            for batch in self._batches:
                batch.remove(each.decoded)

    def _new_tokens(self, job: Job) -> int:
        return min(job.max_new_tokens, self._info.max_new_tokens)

    def _news(self, answering: Sequence[_Answering]) -> list[Progress]:
        """Return what each answer has got since it was looked at last; forget those that are done."""
        progress: list[Progress] = []
        for each in answering:
            opening = self._opening(each) if each.n_seen == 0 else None
            tokens = self._new_texts(each)
            if each.decoded.is_done:
                del self._answering[each.decoded]
                progress.append(Progress(each.key, tokens, self._result(each), opening))
            elif tokens or opening is not None:
                progress.append(Progress(each.key, tokens, opening=opening))
        return progress

    def _new_texts(self, answering: _Answering) -> tuple[TokenStats, ...]:
        """Return the tokens that can be given out by now and were not before."""
        decoded, texts = answering.decoded, answering.texts
        new: list[TokenStats] = []
        with self._tokenizing:
            for n in range(answering.n_seen, len(decoded.ids)):
                new += texts.add(decoded.ids[: n + 1], decoded.stats[n])
            if decoded.is_done:
                new += texts.end(decoded.ids)
        answering.n_seen = len(decoded.ids)
        repeated = max(0, answering.job.n_given_out - len(answering.tokens))
        answering.tokens += new
        return tuple(new[repeated:])

    def _result(self, answering: _Answering) -> AnswerResult:
        ids = answering.decoded.ids
        with self._tokenizing:
            text = self.adapter.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return replace(
            self._opening(answering),
            text=text,
            tokens=tuple(answering.tokens),
            completion_tokens=len(ids),
            generate_ms=1e3 * (time.perf_counter() - answering.prefilled_at),
        )

    def _opening(self, answering: _Answering) -> AnswerResult:
        """Return what the prompt has shown, as a result that says nothing yet."""
        job = answering.job
        return AnswerResult(
            text="",
            tokens=(),
            attention=answering.attention,
            prompt_tokens=len(job.prompt.ids),
            cached_tokens=job.past,
            completion_tokens=0,
            prefill_ms=answering.prefill_ms,
            generate_ms=0.0,
            is_off_domain=self._is_off_domain(answering.decoded.ids),
        )


def own_failure(exc: Exception) -> EngineError:
    """Return the failure of one request. Raises BrokenDeviceError if no other would fare better."""
    if isinstance(exc, EngineError):
        return exc
    reason = f"{type(exc).__name__}: {exc}"
    if _is_broken_device(exc):
        raise BrokenDeviceError(reason) from exc
    failure = EngineError(reason)
    failure.__cause__ = exc
    return failure


def is_out_of_memory(exc: Exception) -> bool:
    """Return whether there was no memory: on the CPU torch raises a plain RuntimeError for it."""
    if isinstance(exc, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(exc, RuntimeError) and any(
        sign in str(exc) for sign in ("DefaultCPUAllocator", "CUDA error: out of memory")
    )


def _is_broken_device(exc: Exception) -> bool:
    """Return whether the device's context is lost: after a CUDA assert every further call fails as well."""
    if is_out_of_memory(exc) or not isinstance(exc, RuntimeError):
        return False
    signs = ("device-side assert", "CUDA error")
    return isinstance(exc, torch.AcceleratorError) or any(sign in str(exc) for sign in signs)
