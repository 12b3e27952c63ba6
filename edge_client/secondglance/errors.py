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
    """Base of the tree; `code`, `request_id` and `retry_after_s` are the server's, where it gave them."""

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
    exit_code = 65


class MissingExtraError(BadImageError):
    exit_code = 2


class UsageError(EdgeError):
    exit_code = 2


class UplinkBudgetError(UsageError):
    pass


class ServerUnavailableError(EdgeError):
    exit_code = 69


class BusyError(ServerUnavailableError):
    exit_code = 75


class NotAllowedError(EdgeError):
    exit_code = 77


class ExpiredError(EdgeError):
    exit_code = 75


class RefusedError(EdgeError):
    exit_code = 69


class TimedOutError(EdgeError):
    exit_code = 124


class ProtocolError(EdgeError):
    exit_code = 69
