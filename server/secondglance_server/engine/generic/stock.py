"""An engine that runs every prompt whole, by transformers' own `generate`: slow, and right for any model.

Nothing is shared between prompts and nothing runs in a batch. It serves models whose prefix cannot be reused
exactly (another kind of cache, a picture that attends to the question) and those that only answer. One thread
at a time.
"""

from __future__ import annotations

import inspect
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from secondglance_server.engine.attention import recording
from secondglance_server.engine.generic.adapter import GenericAdapter
from secondglance_server.engine.prefix import NEUTRAL_PROMPT, own_failure
from secondglance_server.engine.prompt import broken_up, control_tokens, rendered
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    EngineError,
    EngineInfo,
    NeutralRequest,
    Picture,
    Prepared,
    Progress,
    TokenStats,
    Work,
)
from secondglance_server.engine.stepping.uncertainty import uncertainty
from secondglance_server.engine.token_texts import TokenTexts

_NEUTRAL_MAPS = 256


class StockPrompts:
    """Questions and pictures as the stock processor takes them.

    `placeholder`: what the chat template writes for a picture, if that is a token.
    """

    def __init__(self, model: Any, processor: Any, template: str, placeholder: str = "") -> None:
        self.processor, self.template = processor, template
        self.tokenizer = processor.tokenizer
        image_token_id = getattr(model.config, "image_token_id", None)
        fallback = self.tokenizer.eos_token_id
        self._control_ids, self._control = control_tokens(
            self.tokenizer, image_token_id if isinstance(image_token_id, int) else fallback, placeholder
        )
        self._model = model
        rope_index = getattr(getattr(model, "model", model), "get_rope_index", None)
        wanted = inspect.signature(rope_index).parameters if rope_index is not None else {}
        # some processors leave out what their own model asks for
        self._options = {"return_mm_token_type_ids": True} if "mm_token_type_ids" in wanted else {}

    def inputs(self, question: str, pictures: Sequence[Picture]) -> dict[str, Any]:
        """Return the model's inputs on its device. Raises EngineError where the processor refuses."""
        asked = broken_up(question.strip(), self._control)
        text = rendered(self.tokenizer, self.template, len(pictures), asked)
        start = self.tokenizer.bos_token
        try:
            read = self.processor(
                text=[text],
                images=[Image.fromarray(picture.rgb) for picture in pictures],
                add_special_tokens=not (start and text.startswith(start)),
                return_tensors="pt",
                **self._options,
            )
        except (ValueError, TypeError, IndexError, RuntimeError) as exc:
            raise EngineError(f"{type(exc).__name__}: {exc}") from exc
        return {name: self._uploaded(value) for name, value in read.items()}

    def _uploaded(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(self._model.device)
        return value.to(self._model.dtype) if value.is_floating_point() else value


class StockEngine:
    """Implements `Engine` by `generate`. `adapter`: where pictures lie; None: the model only answers."""

    def __init__(
        self,
        model: Any,
        prompts: StockPrompts,
        info: EngineInfo,
        *,
        layers: tuple[int, ...] = (),
        adapter: GenericAdapter | None = None,
        end_ids: frozenset[int],
    ) -> None:
        self.model, self.prompts, self.layers, self.end_ids = model, prompts, layers, end_ids
        self._info, self.adapter = info, adapter
        self._neutral: OrderedDict[str, AttentionMap] = OrderedDict()

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def held_bytes(self) -> int:
        return 0

    def add_note(self, note: str) -> None:
        """Say one more thing about this model, before it serves."""
        self._info = replace(self._info, notes=(*self._info.notes, note))

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        return [self._answer(request) for request in requests]

    def prepare(self, work: Work) -> Prepared:
        return Prepared(work)

    def choose(self, waiting: Sequence[Prepared]) -> list[int]:
        return [0]

    def begin(self, batch: Mapping[int, Prepared]) -> list[Progress]:
        """Run each to its end: nothing is left to step."""
        return [self._progress(key, prepared.work) for key, prepared in batch.items()]

    def step(self) -> list[Progress]:
        return []

    def drop(self, key: int) -> None:
        """Work has ended as soon as it has begun."""

    def _progress(self, key: int, work: Work) -> Progress:
        if isinstance(work, NeutralRequest):
            try:
                return Progress(key, outcome=self.neutral_attention(work.picture))
            except EngineError as failure:
                return Progress(key, outcome=failure)
        outcome = self._answer(work)
        return Progress(key, outcome.tokens if isinstance(outcome, AnswerResult) else (), outcome)

    def neutral_attention(self, picture: Picture) -> AttentionMap:
        if picture.key not in self._neutral:
            outcome = self._answer(AnswerRequest(picture=picture, question=NEUTRAL_PROMPT, max_new_tokens=1))
            if isinstance(outcome, EngineError):
                raise outcome
            if outcome.attention is None:
                raise EngineError("this model only answers")
            self._neutral[picture.key] = outcome.attention
            if len(self._neutral) > _NEUTRAL_MAPS:
                self._neutral.popitem(last=False)
        return self._neutral[picture.key]

    def close(self) -> None:
        self._neutral.clear()
        if not getattr(self.model, "hf_device_map", None) and not getattr(self.model, "is_quantized", False):
            self.model.to("meta")

    def _answer(self, request: AnswerRequest) -> AnswerResult | EngineError:
        """Return the answer or this request's failure. Raises BrokenDeviceError."""
        try:
            return self._run(request)
        except Exception as exc:  # a model's code may raise anything
            return own_failure(exc)

    @torch.inference_mode()
    def _run(self, request: AnswerRequest) -> AnswerResult:
        pictures = [request.picture] + ([request.patch] if request.patch else [])
        inputs = self.prompts.inputs(request.question, pictures)
        limit = max(min(request.max_new_tokens, self._info.max_new_tokens), 1)
        is_reading = self.adapter is not None and request.patch is None
        started = time.perf_counter()
        with recording(self.layers if is_reading else (), slice(None)) as recorder:
            first = _FirstToken()
            output = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=limit,
                output_scores=True,
                return_dict_in_generate=True,
                logits_processor=LogitsProcessorList([first]),
            )
        ended = time.perf_counter()
        n = len(output.scores)
        ids = output.sequences[0, -n:].tolist()
        length = next((i for i, token in enumerate(ids) if token in self.end_ids), n)
        length = min(length, request.max_new_tokens)
        _, stats = uncertainty(torch.cat(list(output.scores)))
        attention = None
        if is_reading:
            attention = self._map(recorder.mean()[0], inputs["input_ids"][0].tolist(), request.picture)
        tokenizer = self.prompts.tokenizer
        return AnswerResult(
            text=tokenizer.decode(ids[:length], skip_special_tokens=True).strip(),
            tokens=token_stats(tokenizer, ids[:length], stats[:length]),
            attention=attention,
            prompt_tokens=int(inputs["input_ids"].shape[1]) if "input_ids" in inputs else 0,
            cached_tokens=0,
            completion_tokens=length,
            prefill_ms=1e3 * ((first.at or ended) - started),
            generate_ms=1e3 * (ended - (first.at or ended)),
        )

    def _map(self, weights: Tensor, ids: Sequence[int], picture: Picture) -> AttentionMap:
        """Return the picture's map from the last token's attention [keys] to a prompt of one picture."""
        assert self.adapter is not None
        layout = self.adapter.layout(picture.rgb.shape[1], picture.rgb.shape[0])
        images = [place for place, token in enumerate(ids) if token == self.adapter.image_token_id]
        cells = weights[[images[cell] for cell in layout.cells_of_run()]].float().cpu().numpy()
        return AttentionMap(cells.reshape(layout.rows, layout.cols), layout.content)


class _FirstToken(LogitsProcessor):
    """Keeps the time of the prompt's last token, and changes no scores."""

    def __init__(self) -> None:
        self.at: float | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.at = self.at or time.perf_counter()
        return scores


def token_stats(tokenizer: Any, ids: list[int], stats: Tensor) -> tuple[TokenStats, ...]:
    """Return each token with the text that it adds to the answer."""
    texts = TokenTexts(tokenizer.decode)
    result: list[TokenStats] = []
    for n, (min_entropy, shannon, margin) in enumerate(stats.float().tolist()):
        result += texts.add(ids[: n + 1], (min_entropy, shannon, margin))
    return (*result, *texts.end(ids))
