"""When a failed request is worth another try, and how long to wait first.

A function and not a retry library: the wait has to fit the caller's deadline and the server's `Retry-After`,
and the conversation that decides about it does no I/O, so nothing here may sleep.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_YEAR_S = 365 * 24 * 3600.0
_MAX_DATE_CHARS = 64  # an HTTP date has 29
_MAX_DIGITS = 300  # as a float can hold


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`retries` after the first try; waits double from `first_wait_s` to `max_wait_s`, minus up to half."""

    retries: int = 2
    first_wait_s: float = 0.5
    max_wait_s: float = 8.0
    max_retry_after_s: float = 120.0

    def wait_s(self, retried: int, retry_after_s: float | None, random: Callable[[], float]) -> float | None:
        """Seconds before the next attempt, or None to give up. `retried` counts retries so far.

        `random` draws from [0, 1): edges that failed together must not come back together.
        """
        if retried >= self.retries:
            return None
        if retry_after_s is None:
            return min(self.max_wait_s, self.first_wait_s * 2.0**retried) * (1 - random() / 2)
        if retry_after_s > self.max_retry_after_s:
            return None
        return retry_after_s + self.first_wait_s * random()


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a `Retry-After` header (a number or an HTTP date), at most a year's.

    None if there is no header or it cannot be read.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text[:_MAX_DIGITS]), _YEAR_S)  # cut to where it is more than a year anyway
    if text.startswith("-") or len(text) > _MAX_DATE_CHARS:
        return 0.0 if re.fullmatch(r"-[0-9]+", text) else None
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)  # "-0000" parses as a naive time in UTC
        wait_s = (at - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):  # whatever the parser meets
        return None
    return min(max(0.0, wait_s), _YEAR_S)
