"""The requests of a conversation, as bytes to send. Knows the contract and not when to use it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

from pydantic import ValidationError

from secondglance.conversation.steps import BodyPart, Send, TokenTeller
from secondglance.conversation.tracing import Trace
from secondglance.errors import BadImageError, ProtocolError, UsageError
from secondglance.pictures.encoding import Encoded
from secondglance.pictures.orientation import Size
from secondglance_protocol.events import EARLY_REGION, EVENT_STREAM
from secondglance_protocol.protocol import (
    API_PREFIX,
    IDEMPOTENCY_KEY_HEADER,
    IMAGE_PART,
    MAX_ORIGINAL_SIDE,
    MAX_QUESTION_HEADER_BYTES,
    MAX_ROUNDS,
    QUESTION_HEADER,
    REQUEST_PART,
    TRACEPARENT_HEADER,
)
from secondglance_protocol.wire import GateSettings, ImageSize, Include, InferenceRequest, Mode, ModelResponse

# A path below the API, of plain segments: no other origin, no query, no `..` however it is written.
_PATCH_URL = re.compile(rf"{API_PREFIX}(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_MAX_PATCH_URL_CHARS = 512
_MULTIPART_BYTES = 97  # that multipart costs more at least; a header must escape what is not ASCII


class Terms(TypedDict, total=False):
    """How to ask, by keyword; what each means is said at `EdgeClient.ask`."""

    mode: Mode
    threshold: float | None
    timeout_s: float | None
    max_uplink_bytes: int | None
    strict: bool
    max_new_tokens: int | None
    include: Iterable[Include]
    max_rounds: int


class QuestionTerms(Terms, total=False):
    """What one question may have besides."""

    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Ask:
    """What a caller wants to know and on which terms. `timeout_s` bounds the whole conversation.

    `max_uplink_bytes` bounds everything sent, headers and retries included. `strict` raises where stage two
    fails instead of returning the draft answer. Conversations with the same `idempotency_key`, picture and
    terms are one: the server, while it remembers, gives its first reply again; None makes each its own.
    `max_rounds` is how many regions may be sent, one after the other, while the answer stays doubtful.
    """

    question: str
    mode: Mode = "auto"
    threshold: float | None = None
    timeout_s: float | None = None
    max_uplink_bytes: int | None = None
    strict: bool = False
    max_new_tokens: int | None = None
    include: tuple[Include, ...] = ()
    idempotency_key: str | None = None
    max_rounds: int = 1


def model_request(deadline: float | None) -> Send:
    return Send("setup", "GET", f"{API_PREFIX}/model", deadline=deadline)


def header_room(model: ModelResponse) -> int:
    """Return how many bytes the question's header may have; 0 where a server takes multipart only."""
    if not model.raw_image:
        return 0
    return min(MAX_QUESTION_HEADER_BYTES, model.limits.max_header_bytes // 2)


def most_rounds(ask: Ask, model: ModelResponse) -> int:
    """Return how many regions may be sent: as many as wanted, if this edge and the server know so many."""
    return min(ask.max_rounds, model.max_rounds, MAX_ROUNDS)


def first_request(
    ask: Ask,
    size: Size,
    picture: Encoded | str,
    *,
    deadline: float | None,
    header_room: int = 0,
    max_rounds: int = 1,
) -> Send:
    """Return stage one's request; `picture` is the encoded global image, or the server's id for it.

    The picture is the body and the question a header if that has room and is shorter; else it is multipart.
    Which one does not depend on the picture's bytes.

    Raises UsageError, or BadImageError for an original of `size` that the protocol cannot name.
    """
    document = _document(
        ask, size, image_id=picture if isinstance(picture, str) else None, max_rounds=max_rounds
    )
    image = picture if isinstance(picture, Encoded) else None
    named = _printable(document)
    headers: dict[str, str] = {}
    if len(named) <= min(header_room, len(document) + _MULTIPART_BYTES):
        headers[QUESTION_HEADER], document = named, named.encode()
        body = b"" if image is None else image.data
        if image is not None:
            headers["Content-Type"] = image.media_type
    else:
        boundary, body = _multipart(
            {REQUEST_PART: document} | ({} if image is None else {IMAGE_PART: image.data})
        )
        headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
    parts = [BodyPart("request.json", document)]
    if image is not None:
        parts.append(BodyPart(f"{IMAGE_PART}.{image.file_suffix}", image.data))
    headers[IDEMPOTENCY_KEY_HEADER] = _idempotency_key(ask, parts)
    return Send("stage1", "POST", f"{API_PREFIX}/inferences", headers, body, tuple(parts), deadline)


def _printable(document: bytes) -> str:
    """Return the same JSON in printable ASCII, as a header can carry it."""
    return json.dumps(json.loads(document), separators=(",", ":")).replace("\x7f", "\\u007f")


def patch_request(url: str, patch: Encoded, *, deadline: float | None, look: int = 1) -> Send:
    """Return stage two's request, of one look at a region.

    Raises ProtocolError for an address outside the server's own API.
    """
    if len(url) > _MAX_PATCH_URL_CHARS or _PATCH_URL.fullmatch(url) is None:
        raise ProtocolError(f"the server offers a patch address outside its own API: {url[:80]!r}")
    headers: Mapping[str, str] = {"Content-Type": patch.media_type}
    part = BodyPart(f"patch.{patch.file_suffix}", patch.data)
    return Send("stage2", "PUT", url, headers, patch.data, (part,), deadline, look=look)


def traced(request: Send, trace: Trace) -> Send:
    """Return `request` as a part of a trace, which the server continues."""
    return replace(request, headers={**request.headers, TRACEPARENT_HEADER: trace.traceparent()})


def streamed(request: Send, teller: TokenTeller, *, is_early: bool = False) -> Send:
    """Return `request` with the wish for events, of whose tokens `teller` is told; with `is_early` also for a
    region while the draft goes on."""
    accepted = f"{EVENT_STREAM};{EARLY_REGION}" if is_early else EVENT_STREAM
    return replace(request, headers={**request.headers, "Accept": accepted}, teller=teller)


def _multipart(contents: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Return a boundary and the body, as short as RFC 7578 allows: servers need a part's name and no more.

    The boundary is the first number whose delimiter no content holds, so that no picture can end a part.
    """
    boundary = next(
        str(number)
        for number in itertools.count()
        if not any(f"--{number}".encode() in content for content in contents.values())
    )
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in contents.items()
    )
    return boundary, b"".join((*parts, f"--{boundary}--\r\n".encode()))


def _idempotency_key(ask: Ask, parts: Iterable[BodyPart]) -> str:
    """The caller's key made one of this very payload, so that it never meets another under the same name."""
    if ask.idempotency_key is None:
        return secrets.token_hex(8)
    digest = hashlib.sha256(ask.idempotency_key.encode())
    for part in parts:
        digest.update(hashlib.sha256(part.data).digest())
    return digest.hexdigest()


def _document(ask: Ask, size: Size, *, image_id: str | None, max_rounds: int) -> bytes:
    if max(size) > MAX_ORIGINAL_SIDE:
        raise BadImageError(
            f"the picture has {size[0]}x{size[1]} pixels; a side has at most {MAX_ORIGINAL_SIDE:,}"
        )
    try:
        request = InferenceRequest(
            question=ask.question,
            image=ImageSize(width=size[0], height=size[1]),
            image_id=image_id,
            mode=ask.mode,
            gate=None if ask.threshold is None else GateSettings(threshold=ask.threshold),
            max_new_tokens=ask.max_new_tokens,
            include=ask.include,
            max_rounds=max_rounds,
        )
    except ValidationError as exc:
        complaints = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
        raise UsageError("; ".join(complaints)) from exc
    return request.model_dump_json(exclude_defaults=True).encode()
