"""How a request fails, for every floor of the server.

    Exception
    +-- ProblemError        a request failed: code, detail, when to try again
    |   +-- HttpProblemError    (`http.problems`) one that needs further response headers
    +-- SettingsError       the server cannot start: a setting is wrong
    +-- ListenError         the server cannot start: its address cannot be had

Statuses and titles are in the protocol's table, and `http.problems` writes the document. Nothing here knows
of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass

from secondglance_protocol.errors import ErrorCode


@dataclass(eq=False)
class ProblemError(Exception):
    """A request that failed with `code`.

    `detail` is shown to the client: it holds no secrets, no question and no paths. `retry_after_s` is in how
    many seconds the same request may succeed; it is sent in whole seconds, at least 1.
    """

    code: ErrorCode
    detail: str
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class SettingsError(Exception):
    """A setting that is wrong; the message names key and value."""


class ListenError(Exception):
    """An address that cannot be listened on; the message names host, port and why."""


def busy(detail: str, *, retry_after_s: float = 1.0) -> ProblemError:
    """Return the problem of a server that has no room."""
    return ProblemError(ErrorCode.BUSY, detail, retry_after_s)


def not_ready(detail: str) -> ProblemError:
    """Return the problem of a server that loads, drains or has failed."""
    return ProblemError(ErrorCode.NOT_READY, detail, 1.0)
