"""Answers on vLLM: one generation for each request, its tokens as they come, its map when it is there.

Everything that decides (places, deadlines, readiness) is `inference.serving`'s business.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from secondglance_server.engine.prefix import NEUTRAL_PROMPT
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
from secondglance_server.engine.vllm.front import Front
from secondglance_server.engine.vllm.inputs import InputBuilder, Prepared
from secondglance_server.engine.vllm.launch import stop_vllm
from secondglance_server.engine.vllm.maps import MapFetcher
from secondglance_server.engine.vllm.tokens import AnswerTokens
from secondglance_vllm_capture import ASKED_BY, N_LOGPROBS

_URGENT, _USUAL = 0, 1  # vLLM serves the lower number first


class VllmCore:
    """Implements `inference.serving.core.ServingCore`. Methods run on the event loop unless they say
    otherwise."""

    def __init__(self, llm: Any, front: Front, inputs: InputBuilder, *, cache_bytes: int = 0) -> None:
        """`cache_bytes`: of the whole paged cache."""
        self.info: EngineInfo = front.info
        self.last_sign_of_life = time.monotonic()
        self._llm = llm
        self._front = front
        self._inputs = inputs
        self._cache_bytes = cache_bytes
        self._cache_share = 0.0
        self._maps = MapFetcher(self.call_workers)
        self._numbers = itertools.count()

    @property
    def death(self) -> str | None:
        """Why nothing will be answered any more, None while vLLM's processes live."""
        return "vLLM's engine has died" if self._llm.errored else None

    @property
    def held_bytes(self) -> int:
        """Of the paged cache, in use by requests that run."""
        return int(self._cache_share * self._cache_bytes)

    def note_step(self, cache_share: float) -> None:
        """vLLM has done a step of work."""
        self.last_sign_of_life = time.monotonic()
        self._cache_share = cache_share

    async def call_workers(self, method: str, *arguments: Any) -> Sequence[Any]:
        """Return what the extension's method returns on each worker. Raises BrokenDeviceError."""
        with _translated_failures():
            results: Sequence[Any] = await self._llm.collective_rpc(method, args=arguments)
        self.last_sign_of_life = time.monotonic()
        return results

    async def answer(
        self,
        request: AnswerRequest,
        *,
        on_token: Callable[[TokenStats], None] = lambda _: None,
        on_opening: Callable[[AnswerResult, float], None] = lambda _, __: None,
        is_urgent: bool = False,
        check: str | None = None,
    ) -> tuple[AnswerResult, float]:
        """Return the answer and the milliseconds that it waited for its first step.

        `check` names a request whose map is also compared inside the workers. Raises EngineError,
        BrokenDeviceError. If it is cancelled, vLLM stops and forgets the map.
        """
        with _translated_failures():
            prepared = await asyncio.to_thread(self._inputs.prepare, request)
            return await self._generate(
                request, prepared, on_token, on_opening, is_urgent=is_urgent, check=check
            )

    async def neutral_attention(self, picture: Picture) -> AttentionMap:
        """Raises EngineError, BrokenDeviceError."""
        result, _ = await self.answer(
            AnswerRequest(picture, NEUTRAL_PROMPT, max_new_tokens=0), is_urgent=True
        )
        if result.attention is None:
            raise EngineError("the neutral prompt came without attention")
        return result.attention

    def close(self) -> None:
        """End vLLM's processes. Blocks for some seconds; may be called from any thread."""
        stop_vllm(self._llm)

    async def _generate(
        self,
        request: AnswerRequest,
        prepared: Prepared,
        on_token: Callable[[TokenStats], None],
        on_opening: Callable[[AnswerResult, float], None],
        *,
        is_urgent: bool,
        check: str | None,
    ) -> tuple[AnswerResult, float]:
        adapter = self._front.adapter
        limit = min(request.max_new_tokens, self.info.max_new_tokens)
        tokens = AnswerTokens(adapter.tokenizer, adapter.end_ids, limit)
        key = check or f"map-{next(self._numbers)}"
        wants_map = request.patch is None and self.info.answers_only is None
        params = self._params(prepared, key if wants_map else None, limit, check=check is not None)
        fetching: asyncio.Task[AttentionMap | None] | None = None
        last: Any = None
        is_opened = False
        try:
            async with aclosing(self._steps(prepared, params, is_urgent=is_urgent)) as steps:
                async for last in steps:
                    if wants_map and fetching is None:  # a token is there, so the prompt has run
                        fetching = asyncio.create_task(self._attention(key, prepared))
                    new = tokens.add(last.outputs[0])
                    if fetching and fetching.done() and not is_opened:
                        is_opened = True
                        on_opening(*self._opening(prepared, tokens, fetching.result(), last))
                    for token in new:
                        on_token(token)
            for token in tokens.end():
                on_token(token)
            attention = await fetching if fetching else None
        except BaseException:
            if fetching:
                fetching.cancel()
            if wants_map:
                self._maps.drop(key)
            raise
        opening, waited_ms = self._opening(prepared, tokens, attention, last)
        result = replace(
            opening,
            text=tokens.text,
            tokens=tuple(tokens.stats),
            completion_tokens=len(tokens.ids),
            generate_ms=1e3 * (last.metrics.last_token_ts - last.metrics.first_token_ts),
        )
        return result, waited_ms

    def _opening(
        self, prepared: Prepared, tokens: AnswerTokens, attention: AttentionMap | None, output: Any
    ) -> tuple[AnswerResult, float]:
        """Return what the prompt has shown, as a result that says nothing yet, and the milliseconds that it
        waited; `output`: vLLM's latest."""
        times, refusals = output.metrics, self._front.adapter.off_domain_ids
        result = AnswerResult(
            text="",
            tokens=(),
            attention=attention,
            prompt_tokens=len(prepared.prompt.ids),
            cached_tokens=output.num_cached_tokens or 0,
            completion_tokens=0,
            prefill_ms=1e3 * (times.first_token_ts - times.scheduled_ts),
            generate_ms=0.0,
            is_off_domain=bool(tokens.ids) and tokens.ids[0] in refusals if refusals else None,
        )
        return result, 1e3 * (times.scheduled_ts - times.queued_ts)

    async def _steps(self, prepared: Prepared, params: Any, *, is_urgent: bool) -> AsyncGenerator[Any]:
        number = next(self._numbers)
        generation = self._llm.generate(
            prepared.engine_input, params, f"request-{number}", priority=_URGENT if is_urgent else _USUAL
        )
        async with aclosing(generation):
            async for output in generation:
                self.last_sign_of_life = time.monotonic()
                yield output

    def _params(
        self, prepared: Prepared, key: str | None, limit: int, *, check: bool = False, anew: bool = False
    ) -> Any:
        """Greedy, with three numbers for each token; with `key`, the map of the prompt's last token.

        `anew`: compute the whole prompt, whatever is cached of it.
        """
        grid = prepared.prompt.grid
        place: dict[str, Any] = (
            {"start": grid.start, "stop": grid.stop} if isinstance(grid, slice) else {"cells": list(grid)}
        )
        ask = {"key": key, "check": check, **place}
        return SamplingParams(
            temperature=0.0,
            max_tokens=max(1, limit),
            stop_token_ids=sorted(self._front.adapter.end_ids),
            detokenize=False,
            logprobs=N_LOGPROBS,
            flat_logprobs=True,
            output_kind=RequestOutputKind.DELTA,
            skip_reading_prefix_cache=anew,
            extra_args=None if key is None else {ASKED_BY: ask},
        )

    async def _attention(self, key: str, prepared: Prepared) -> AttentionMap | None:
        """Return the map; a prompt whose map is missing is computed once more, without the cache.

        A step with a single new token may run in a graph that hides the layer.
        """
        weights = await self._maps.take(key)
        if weights is None:
            params = self._params(prepared, key, limit=1, anew=True)
            async with aclosing(self._steps(prepared, params, is_urgent=True)) as steps:
                async for _ in steps:
                    pass
            weights = await self._maps.take(key)
        if weights is None:
            return None
        layout = prepared.layout
        return AttentionMap(weights.reshape(layout.rows, layout.cols), layout.content)


@contextmanager
def _translated_failures() -> Iterator[None]:
    """The one seam where vLLM's errors become ours."""
    try:
        yield
    except (EngineError, BrokenDeviceError):
        raise
    except EngineDeadError as exc:
        raise BrokenDeviceError("vLLM's engine has died") from exc
    except Exception as exc:  # of this request: its pictures, its length
        raise EngineError(f"{type(exc).__name__}: {exc}") from exc
