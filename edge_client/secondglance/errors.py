"""Everything the edge raises on purpose, split by who failed and whether trying again may help.

EdgeError
├── BadImageError            the original cannot be read or is too large, or the server refused it
│   └── MissingExtraError    its format needs an extra that is not installed
├── UsageError               the arguments cannot work: an empty question, a wrong setting
│   └── UplinkBudgetError    the next request would exceed `max_uplink_bytes`
├── ServerUnavailableError   nobody answers at that address, or the server failed
│   └── BusyError            the server is full or not ready; later may work
├── NotAllowedError          key missing, unknown or without the right
├── ExpiredError             the server no longer knows this image or conversation
├── RefusedError             the server understood and said no (a conflict, an unknown route)
├── TimedOutError            no answer in time
└── ProtocolError            the answer is not Second Glance's REST (a proxy's page, another version)

Each class carries the command line's exit code. Replies become errors in `failures` and nowhere else.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeError(Exception):
    """Base of the tree.

    `code`, `request_id` and `retry_after_s` (seconds) are the server's, where it gave them. `exit_code` is
    what the command line ends with.
    """

    exit_code: ClassVar[int] = 69

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class BadImageError(EdgeError):
    """The original cannot be read or is too large, or the server refused it; another try does not help."""

    exit_code = 65


class MissingExtraError(BadImageError):
    """The picture's format needs an extra that is not installed; the message names it."""

    exit_code = 2


class UsageError(EdgeError):
    """The arguments or settings cannot work; the message names what to change."""

    exit_code = 2


class UplinkBudgetError(UsageError):
    """The next request would exceed `max_uplink_bytes`; it was not sent."""


class ServerUnavailableError(EdgeError):
    """Nobody answers at that address, or the server failed; a later try may work."""

    exit_code = 69


class BusyError(ServerUnavailableError):
    """The server is full, not ready or over this key's quota; try again after `retry_after_s` seconds."""

    exit_code = 75


class NotAllowedError(EdgeError):
    """The key is missing, unknown or without the right."""

    exit_code = 77


class ExpiredError(EdgeError):
    """The server no longer knows this image or conversation; ask again from the start."""

    exit_code = 75


class RefusedError(EdgeError):
    """The server understood and said no: a conflict, an unknown route."""

    exit_code = 69


class TimedOutError(EdgeError):
    """No answer came in time."""

    exit_code = 124


class ProtocolError(EdgeError):
    """The answer is not Second Glance's REST: a proxy's page, or another version."""

    exit_code = 69
