"""From the IMAGE of `secondglance ask` to a picture: a file, standard input, a URL or a page of a PDF."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from secondglance.errors import BadImageError, UsageError

if TYPE_CHECKING:
    from secondglance.pictures.original import ImageSource

STANDARD_INPUT = "-"
_MAX_BYTES = 256 * 1024 * 1024
_TIMEOUT_S = 60.0


def read_source(name: str, *, page: int | None, allowed_hosts: Iterable[str]) -> ImageSource:
    """Return the picture that `name` stands for: a path, the bytes of a file, or the page that was drawn.

    Raises UsageError, BadImageError.
    """
    source: ImageSource = name
    if name == STANDARD_INPUT:
        source = _read_standard_input()
    elif name.lower().startswith(("http://", "https://")):
        source = _fetch(name, allowed_hosts)
    else:
        _check_file(name)
    return source if page is None else _draw(source, page)


def _check_file(name: str) -> None:
    try:
        with open(name, "rb"):
            pass
    except OSError as exc:
        raise UsageError(f"IMAGE {name!r}: {exc.strerror or exc}") from exc
    except ValueError as exc:  # a NUL character
        raise UsageError(f"IMAGE {name!r}: {exc}") from exc


def _read_standard_input() -> bytes:
    if sys.stdin.isatty():
        raise UsageError("IMAGE is -, and no picture comes from the terminal: redirect one")
    data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise BadImageError(f"standard input holds more than {_MAX_BYTES:,} bytes")
    if not data:
        raise BadImageError("standard input is empty")
    return data


def _fetch(url: str, allowed_hosts: Iterable[str]) -> bytes:
    import asyncio

    from secondglance.wire.remote import RemotePictures

    async def fetch() -> bytes:
        # Whoever types a host means it, in this network too.
        remote = RemotePictures(allowed_hosts, allow_private=True, max_bytes=_MAX_BYTES, timeout_s=_TIMEOUT_S)
        try:
            return await remote.fetch(url)
        finally:
            await remote.aclose()

    return asyncio.run(fetch())


def _draw(source: ImageSource, page: int) -> ImageSource:
    import io

    from secondglance.pictures.pdf import is_pdf, render_page

    data = io.BytesIO(source) if isinstance(source, bytes) else open(str(source), "rb")  # noqa: SIM115
    with data:
        if not is_pdf(data.read(16)):
            raise UsageError("--page is of a PDF, and this is none")
        data.seek(0)
        return render_page(data, page)[0]
