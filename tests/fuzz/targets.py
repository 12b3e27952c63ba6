"""What is fuzzed, as functions of bytes that raise only if something is wrong.

Coverage guides the fuzzer through Python (ours, Pillow's, the multipart parser's); the C decoders below and
pydantic's core run uninstrumented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.datastructures import Headers

from secondglance import BadImageError
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original
from secondglance_protocol.errors import ERRORS
from secondglance_protocol.protocol import QUESTION_HEADER
from secondglance_server.errors import ProblemError
from secondglance_server.http.routes import _message, _taken_apart
from secondglance_server.inference.intake import decode, image_limits
from secondglance_server.settings import ServerSettings

MAX_FUZZED_PIXELS = 4_000_000
LIMITS = image_limits(ServerSettings())
BOUNDARY_TYPE = "multipart/form-data; boundary=cut"
_TYPE_MARK = (
    b"\0"  # before it: the Content-Type and, on a line of its own, X-Question; without it the type is right
)


def image(data: bytes) -> None:
    """Image intake: a picture within the limits, or a problem that is the client's."""
    try:
        rgb = decode(data, LIMITS)
    except ProblemError as problem:
        _check_blames_the_client(problem)
        return
    height, width, channels = rgb.shape
    assert (channels, str(rgb.dtype)) == (3, "uint8")
    assert LIMITS.complaint(width, height) is None


def original(data: bytes) -> None:
    """The edge's decoders, all formats: a picture within the limits, or a BadImageError."""
    try:
        with Original(data, max_pixels=MAX_FUZZED_PIXELS) as opened:
            width, height = opened.size
            opened.global_image(PixelBudget(64, 64))
            shown = opened.crop((0, 0, width, height))
    except BadImageError:
        return
    assert (shown.mode, shown.size) == ("RGB", (width, height))


def request(data: bytes) -> None:
    """Both forms of stage one and the request's schema: a message, or a problem of the client."""
    given_type, mark, body = data.partition(_TYPE_MARK)
    content_type, _, question = (
        given_type.decode("latin-1").partition("\n") if mark else (BOUNDARY_TYPE, "", "")
    )
    headers = {"content-type": content_type} | ({QUESTION_HEADER.lower(): question} if question else {})
    try:
        document, _image = _taken_apart(Headers(headers), body if mark else data)
        message = _message(document)
    except ProblemError as problem:
        _check_blames_the_client(problem)
        return
    assert 1 <= len(message.question.encode()) <= 4096


def _check_blames_the_client(problem: ProblemError) -> None:
    assert 400 <= ERRORS[problem.code].status < 500, problem


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "image": image,
    "original": original,
    "request": request,
}
