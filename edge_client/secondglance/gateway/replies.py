"""A finished conversation written as OpenAI's chat completion, whole or in chunks.

Only the emitted token's probability is known, so `logprobs` lists no alternatives. Token counts are sums over
both stages and all looks: that is what the model worked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secondglance.conversation.steps import Token
from secondglance.gateway.answer_format import PLAIN, AnswerFormat
from secondglance.gateway.errors import ApiError
from secondglance.reply import Reply
from secondglance_protocol.wire import InferenceResponse, TokenReport

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Form:
    """What all chunks of one completion share, and how its request wanted it."""

    id: str
    created: int
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    wants_logprobs: bool = False
    wants_usage: bool = False
    answer_format: AnswerFormat = PLAIN
    notes: tuple[str, ...] = ()


class ChatWriter:
    """Writes one conversation as `chat.completion` or its chunks."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def document(self, reply: Reply) -> dict[str, Any]:
        """Return `chat.completion`."""
        form = self.form
        text, finish_reason = ending(reply, form)
        choice = {
            "index": 0,
            "message": {"role": "assistant", **said(text, form)},
            "finish_reason": finish_reason,
            "logprobs": _logprobs(reply.tokens) if form.wants_logprobs else None,
        }
        return {
            **_head(form, "chat.completion", reply.model),
            "choices": [choice],
            "usage": usage_of(reply),
            "second_glance": extension(reply, form),
        }

    def opening(self, first: InferenceResponse | None, model: str) -> list[bytes]:
        """Return the first chunk: the role and, if stage one has answered, the draft for whoever shows it."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        chunk = _chunk(self.form, model, delta)
        return [_event(chunk if first is None else chunk | {"second_glance": draft_of(first)})]

    def piece(self, text: str, tokens: Sequence[Token | TokenReport], model: str) -> bytes:
        """Return a piece of the answer; `tokens` are those that it ends."""
        return self._content_chunk({"content": text}, tokens, model)

    def whole(self, reply: Reply) -> list[bytes]:
        """Return the whole answer in the form that the app asked for, or why it has none."""
        text, _ = ending(reply, self.form)
        delta = {name: value for name, value in said(text, self.form).items() if value}
        return [self._content_chunk(delta, reply.tokens or (), reply.model)]

    def end(self, reply: Reply) -> list[bytes]:
        """Return the answer's end and, if wanted, the usage."""
        form = self.form
        _, finish_reason = ending(reply, form)
        end = _chunk(form, reply.model, {}, finish_reason) | {"second_glance": extension(reply, form)}
        usage = _chunk(form, reply.model, None) | {"usage": usage_of(reply)}
        return [_event(end), *([_event(usage)] if form.wants_usage else []), DONE]

    def failed(self, error: ApiError) -> bytes:
        """Return a failure after the status has been sent; the official client raises it as APIError."""
        return _event(error.body())

    def _content_chunk(
        self, delta: dict[str, Any], tokens: Sequence[Token | TokenReport], model: str
    ) -> bytes:
        chunk = _chunk(self.form, model, delta)
        if self.form.wants_logprobs:
            chunk["choices"][0]["logprobs"] = _logprobs(tokens)
        return _event(chunk)


def draft_of(first: InferenceResponse) -> dict[str, Any]:
    """Return stage one's answer, for whoever shows it while the second is on its way."""
    return {
        "stage": 1,
        "status": first.status,
        "draft": first.answer,
        "draft_confidence": first.confidence.model_dump(mode="json"),
        "roi": first.roi.model_dump(mode="json") if first.roi else None,
    }


def extension(reply: Reply, form: Form) -> dict[str, Any]:
    """`second_glance`: what OpenAI's fields have no place for."""
    told = reply.to_dict()
    names = (
        "id",
        "stage",
        "doubtful",
        "reason",
        "off_domain",
        "confidence",
        "draft_confidence",
        "roi",
        "degraded",
        "receipt",
    )
    notes = [*form.notes, *reply.notes]
    looks = {"looks": told["looks"]} if "looks" in told else {}
    return {"draft": reply.draft_answer, **{name: told[name] for name in names}, **looks, "notes": notes}


def _head(form: Form, kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{form.id}", "object": kind, "created": form.created, "model": model}


def _chunk(
    form: Form, model: str, delta: dict[str, Any] | None, finish_reason: str | None = None
) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    if delta is not None:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]
    chunk = {**_head(form, "chat.completion.chunk", model), "choices": choices}
    return chunk | ({"usage": None} if form.wants_usage else {})


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def ending(reply: Reply, form: Form) -> tuple[str, str]:
    """Return the answer up to the earliest stop sequence, and why it ends there."""
    found = [at for at in (reply.answer.find(stop) for stop in form.stops) if at >= 0]
    if found:
        return reply.answer[: min(found)], "stop"
    answered = reply.first if reply.surest is None else reply.surest.reply
    is_cut = answered.usage.completion_tokens >= form.max_new_tokens
    return reply.answer, "length" if is_cut else "stop"


def said(answer: str, form: Form) -> dict[str, str | None]:
    """Return `content` and `refusal`: an answer that the wanted form cannot hold is refused in words."""
    content = form.answer_format.write(answer)
    if content is not None:
        return {"content": content, "refusal": None}
    return {"content": None, "refusal": f"the model's answer is no such value: {answer}"}


def usage_of(reply: Reply) -> dict[str, Any]:
    """Return the tokens of both stages and all looks together."""
    stages = [stage.usage for stage in (reply.first, *(look.reply for look in reply.looks))]
    prompt = sum(usage.prompt_tokens for usage in stages)
    completed = sum(usage.completion_tokens for usage in stages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completed,
        "total_tokens": prompt + completed,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in stages)},
    }


def _logprobs(tokens: Sequence[Token | TokenReport] | None) -> dict[str, Any]:
    """Greedy decoding: a token's min-entropy is minus its log-probability."""
    content = [
        {
            "token": token.text,
            "logprob": -token.min_entropy,
            "bytes": list(token.text.encode()),
            "top_logprobs": [],
        }
        for token in tokens or ()
    ]
    return {"content": content, "refusal": None}
