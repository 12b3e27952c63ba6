"""`POST /v1/responses`: OpenAI's newer API for the same question about the same picture.

A request becomes the chat completion that it means, so that pictures, parameters, doubts and failures are
treated alike; the answer is written as a response, whole or as its events. Nothing is stored, so nothing can
be continued: what refers to an earlier response is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from secondglance.conversation.steps import Token
from secondglance.gateway.completions import answer, read_document, while_connected
from secondglance.gateway.errors import ApiError, bad_request
from secondglance.gateway.messages import parse_chat
from secondglance.gateway.replies import Form, draft_of, ending, extension, said, usage_of
from secondglance.reply import Reply
from secondglance_protocol.wire import InferenceResponse, TokenReport

_SAME_NAME = (
    *("model", "stream", "temperature", "top_p", "top_logprobs", "store", "metadata", "user"),
    *("safety_identifier", "service_tier", "prompt_cache_key", "prompt_cache_options"),
    *("prompt_cache_retention", "parallel_tool_calls", "tools", "tool_choice", "moderation", "second_glance"),
)
_OTHER_NAME = {"max_output_tokens": "max_completion_tokens"}
_IGNORED = {
    "include": "replies hold what they hold",
    "reasoning": "the model does not reason aloud",
    "truncation": "questions are short",
    "max_tool_calls": "there are no tools",
    "stream_options": "events are not padded",
    "context_management": "each question is asked by itself",
    "access_programs": "there are none",
}
_NEUTRAL: Mapping[str, Sequence[Any]] = {"truncation": ("auto", "disabled"), "include": ([],)}
_REFUSED = {
    "background": "an answer takes seconds; it is waited for",
    "background_options": "an answer takes seconds; it is waited for",
    "conversation": "nothing is stored",
    "previous_response_id": "nothing is stored",
    "prompt": "nothing is stored",
    "image": "no pictures are made",
}


async def create_response(request: Request) -> Response:
    """One response. Raises ApiError, or EdgeError as the conversation does."""
    document, notes = _as_chat(await read_document(request))
    chat, more = parse_chat(document)
    return await while_connected(
        request, answer(chat, [*notes, *more], request.app.state.parts, ResponseWriter)
    )


def _as_chat(document: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the chat completion that a request means, and notes. Raises ApiError."""
    if not isinstance(document, dict):
        raise bad_request("the body is no JSON object", code="invalid_json")
    chat: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in document.items():
        if name in _SAME_NAME:
            chat[name] = value
        elif name in _OTHER_NAME:
            chat[_OTHER_NAME[name]] = value
        elif name in _IGNORED:
            if value is not None and value not in _NEUTRAL.get(name, ()):
                notes.append(f"{name} is ignored: {_IGNORED[name]}")
        elif name in _REFUSED:
            if value:
                raise bad_request(
                    f"{name} is not supported here: {_REFUSED[name]}",
                    code="unsupported_parameter",
                    param=name,
                )
        elif name == "text":
            chat |= _text_settings(value, notes)
        elif name not in ("input", "instructions"):
            raise bad_request(f"{name}: unknown parameter", code="unknown_parameter", param=name)
    if "input" in document:
        chat["messages"] = [*_instructions(document.get("instructions")), *_messages(document["input"])]
    return chat, notes


def _text_settings(value: Any, notes: list[str]) -> dict[str, Any]:
    settings = value if isinstance(value, dict) else {}
    if settings.get("verbosity") not in (None, "medium"):
        notes.append("text.verbosity is ignored: the model has no such setting")
    return {"response_format": settings["format"]} if settings.get("format") else {}


def _instructions(text: Any) -> list[dict[str, Any]]:
    return [{"role": "system", "content": text}] if text else []


def _messages(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise bad_request("input: a text or a list of messages", code="invalid_value", param="input")
    return [_message(item) for item in given]


def _message(item: Any) -> Any:
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        kind = item.get("type") if isinstance(item, dict) else type(item).__name__
        raise bad_request(f"input of type {kind!r} is not taken", code="unsupported_content", param="input")
    content = item.get("content")
    parts = [_part(part) for part in content] if isinstance(content, list) else content
    return {"role": item.get("role"), "content": parts}


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "input_image" and part.get("file_id"):
        return {"type": "file", "file": {"file_id": part["file_id"]}}
    if kind == "input_image":
        return {
            "type": "image_url",
            "image_url": {"url": part.get("image_url"), "detail": part.get("detail")},
        }
    if kind == "input_file" and part.get("file_url"):
        return {"type": "image_url", "image_url": {"url": part["file_url"]}}
    if kind == "input_file":
        names = ("file_id", "file_data")
        return {"type": "file", "file": {name: part[name] for name in names if name in part}}
    return {"type": str(kind)}


class ResponseWriter:
    """Writes one conversation as `response` or its events, which are numbered."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._item_id = f"msg_{form.id}"
        self._numbers: Iterator[int] = iter(range(2**31))

    def document(self, reply: Reply) -> dict[str, Any]:
        """Return `response`."""
        text, why = ending(reply, self.form)
        is_cut = why == "length"
        return self._response(
            "incomplete" if is_cut else "completed",
            reply.model,
            [self._item("incomplete" if is_cut else "completed", [_content(text, self.form)])],
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
            usage=_usage(reply),
            second_glance=extension(reply, self.form),
        )

    def opening(self, first: InferenceResponse | None, model: str) -> list[bytes]:
        """Return the events up to the first piece; the draft goes with them if stage one has answered."""
        begun = self._response("in_progress", model, [])
        if first is not None:
            begun["second_glance"] = draft_of(first)
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=self._item("in_progress", [])),
            self._event("response.content_part.added", **self._place(), part=_text("")),
        ]

    def piece(self, text: str, tokens: Sequence[Token | TokenReport], model: str) -> bytes:
        """Return a piece of the answer."""
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def whole(self, reply: Reply) -> list[bytes]:
        """Return the whole answer in the form that the app asked for, or why it has none."""
        text, _ = ending(reply, self.form)
        answer = said(text, self.form)
        if answer["content"] is not None:
            return [self.piece(answer["content"], (), reply.model)]
        return [self._event("response.refusal.delta", **self._place(), delta=answer["refusal"])]

    def end(self, reply: Reply) -> list[bytes]:
        """Return the events that end the answer."""
        done = self.document(reply)
        [item] = done["output"]
        [content] = item["content"]
        is_refused = content["type"] == "refusal"
        last = (
            self._event("response.refusal.done", **self._place(), refusal=content["refusal"])
            if is_refused
            else self._event("response.output_text.done", **self._place(), text=content["text"], logprobs=[])
        )
        return [
            last,
            self._event("response.content_part.done", **self._place(), part=content),
            self._event("response.output_item.done", output_index=0, item=item),
            self._event(f"response.{done['status']}", response=done),
        ]

    def failed(self, error: ApiError) -> bytes:
        """Return a failure after the status has been sent; the official client raises it as APIError."""
        told = error.body()["error"]
        assert isinstance(told, dict)
        return self._event("error", message=told["message"], code=told["code"], param=told["param"])

    def _response(self, status: str, model: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": f"resp_{self.form.id}",
            "object": "response",
            "created_at": self.form.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": self.form.max_new_tokens,
            "metadata": {},
            "model": model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": 0.0,
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": None,
            **more,
        }

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        document = {"type": kind, "sequence_number": next(self._numbers), **fields}
        return f"event: {kind}\ndata: {json.dumps(document, separators=(',', ':'))}\n\n".encode()


def _content(answer: str, form: Form) -> dict[str, Any]:
    told = said(answer, form)
    if told["content"] is None:
        return {"type": "refusal", "refusal": told["refusal"]}
    return _text(told["content"])


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(reply: Reply) -> dict[str, Any]:
    chat = usage_of(reply)
    cached = chat["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": chat["total_tokens"],
    }
