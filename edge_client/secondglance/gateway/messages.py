"""The request's document, and the question and picture inside its messages.

The question is the text of the last user message. The picture is the first one of the latest user message
that has any, so a follow-up question is about the picture that was last shown. Knows neither HTTP nor how a
picture's bytes are had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
)

from secondglance.gateway.errors import ApiError, bad_request
from secondglance.gateway.parameters import sort_out
from secondglance_protocol.wire import Mode, Uncertainty


class _Lenient(BaseModel):
    """Messages carry much that apps add; what is not needed is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TextPart(_Lenient):
    text: str


class ImageUrl(_Lenient):
    url: str
    detail: str | None = None


class ImagePart(_Lenient):
    image_url: ImageUrl


class FileReference(_Lenient):
    file_id: str | None = None
    file_data: str | None = None


class FilePart(_Lenient):
    file: FileReference


class OtherPart(_Lenient):
    type: str


def _kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return str(kind) if kind in ("text", "image_url", "file") else "other"


ContentPart: TypeAlias = Annotated[
    Annotated[TextPart, Tag("text")]
    | Annotated[ImagePart, Tag("image_url")]
    | Annotated[FilePart, Tag("file")]
    | Annotated[OtherPart, Tag("other")],
    Discriminator(_kind),
]
PicturePart: TypeAlias = ImagePart | FilePart


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


class Message(_Lenient):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[tuple[ContentPart, ...], BeforeValidator(_as_parts)] = ()

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def pictures(self) -> tuple[PicturePart, ...]:
        return tuple(part for part in self.content if isinstance(part, (ImagePart, FilePart)))


class StreamOptions(_Lenient):
    include_usage: bool = False


class Extension(BaseModel):
    """What a request may say in `second_glance` (`extra_body` of the official client)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode | None = None
    threshold: Uncertainty | None = None
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_uplink_bytes: PositiveInt | None = None
    strict: bool = False
    max_rounds: PositiveInt | None = None


class ChatRequest(BaseModel):
    """The honoured parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    messages: tuple[Message, ...] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    stop: str | tuple[str, ...] | None = None
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None
    second_glance: Extension = Extension()

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return tuple(stop for stop in stops if stop)

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, about what; `notes` say what of the request made no difference."""

    text: str
    picture: PicturePart
    notes: tuple[str, ...] = ()

    @property
    def is_low_detail(self) -> bool:
        return isinstance(self.picture, ImagePart) and self.picture.image_url.detail == "low"


def parse_chat(document: Any) -> tuple[ChatRequest, list[str]]:
    """The request and notes about ignored parameters. Raises ApiError."""
    if not isinstance(document, dict):
        raise bad_request("the body is no JSON object", code="invalid_json")
    honoured, notes = sort_out(document)
    try:
        return ChatRequest.model_validate(honoured), notes
    except ValidationError as exc:
        raise _invalid(exc) from exc


def compose(messages: tuple[Message, ...], *, system: Literal["ignore", "prepend"]) -> Question:
    """Raises ApiError if there is no text or no picture to ask about."""
    users = [message for message in messages if message.role == "user"]
    for part in users[-1].content if users else ():
        if isinstance(part, OtherPart):
            raise bad_request(
                f"content parts of type {part.type!r} are not taken; text, image_url and file are",
                code="unsupported_content",
                param="messages",
            )
    text = users[-1].text.strip() if users else ""
    if not text:
        raise bad_request("the last user message has no text", code="missing_text", param="messages")
    shown = next((message.pictures for message in reversed(users) if message.pictures), ())
    if not shown:
        raise bad_request(
            "no user message has a picture; this endpoint answers questions about pictures",
            code="missing_image",
            param="messages",
        )
    notes = list(_notes(messages, users, shown, system))
    instructions = [message.text for message in messages if message.role in ("system", "developer")]
    if system == "prepend":
        text = "\n\n".join([*filter(None, instructions), text])
    return Question(text, shown[0], tuple(notes))


def _notes(
    messages: tuple[Message, ...], users: list[Message], shown: tuple[PicturePart, ...], system: str
) -> list[str]:
    notes: list[str] = []
    roles = [message.role for message in messages]
    if len(shown) > 1:
        notes.append(f"the first picture is asked about; {len(shown) - 1} more in its message are ignored")
    if system == "ignore" and ("system" in roles or "developer" in roles):
        notes.append("system messages are ignored")
    if len(users) > 1 or set(roles) - {"user", "system", "developer"}:
        notes.append("the text of earlier turns is ignored: each question is asked by itself")
    return notes


def _invalid(exc: ValidationError) -> ApiError:
    """The first complaint, without the value at fault, which may be a whole picture."""
    error = exc.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in error["loc"])
    code = "missing_required_parameter" if error["type"] == "missing" else "invalid_value"
    return bad_request(f"{where}: {error['msg']}", code=code, param=where or None)
