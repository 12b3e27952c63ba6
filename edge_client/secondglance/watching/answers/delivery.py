"""Handing an answer to a program's standard input or to a web hook, once. Nothing goes through a shell.

An answer is delivered at least once: what is not taken waits on disk (see `courier`), and a watch that is
killed between delivering and noting it does so again, with the same `id`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol, Self

import httpx

from secondglance.conversation.failures import wait_s
from secondglance.errors import UsageError
from secondglance.retry import RetryPolicy, parse_retry_after
from secondglance.wire.addresses import shown_address, without_secrets
from secondglance.wire.proxies import client_for

_TRIES = 3
_REDIRECTS = 3
_OF_THE_RECORD = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""Statuses that a hook gives to one answer and not to another."""


class DeliveryError(Exception):
    """The answer was not taken.

    `concerns_all` if other answers would fare no better now; `retry_after_s` is the target's wish in seconds.
    """

    def __init__(
        self, message: str, *, concerns_all: bool = True, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.concerns_all = concerns_all
        self.retry_after_s = retry_after_s


class Delivery(Protocol):
    """Somewhere for answers to go; `name` is for people."""

    @property
    def name(self) -> str: ...

    def deliver(self, record: Mapping[str, Any]) -> None:
        """Hand one answer on. Raises DeliveryError."""


class Command:
    """Runs a program for each answer: JSON on its standard input, SECONDGLANCE_ANSWER in its environment.

    What it prints goes to our stderr: stdout is for answers.
    """

    def __init__(self, command: str, *, timeout_s: float = 60.0) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as exc:
            raise UsageError(f"--cmd: {exc}") from exc
        if not self._words:
            raise UsageError("--cmd: no program is named")
        self.name = self._words[0]
        self._timeout_s = timeout_s

    def deliver(self, record: Mapping[str, Any]) -> None:
        environment = {
            f"SECONDGLANCE_{name.upper()}": str(record[name]).replace("\0", "")
            for name in ("name", "question", "answer")
        }
        try:
            ran = subprocess.run(
                self._words,
                input=json.dumps(record).encode(),
                env=os.environ | environment,
                stdout=sys.stderr.fileno() if _has_fileno() else subprocess.DEVNULL,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise DeliveryError(f"{self.name} timed out after {self._timeout_s:g} seconds") from exc
        except OSError as exc:
            raise DeliveryError(f"{self.name}: {exc}") from exc
        if ran.returncode:
            raise DeliveryError(f"{self.name} ended with exit code {ran.returncode}", concerns_all=False)


class Webhook:
    """POSTs each answer as JSON; tries again a few times if that fails and the hook names no time.

    A redirect is followed where the answer stays the same POST (307, 308) to the same host.
    """

    def __init__(self, url: str, *, policy: RetryPolicy, timeout_s: float = 10.0) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as exc:
            raise UsageError(f"--webhook: not a URL: {shown_address(url)}") from exc
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(f"--webhook: not an http or https URL: {shown_address(url)}")
        self.name = parsed.host
        self._url = parsed
        self._policy = policy
        self._http = client_for(parsed, httpx.Timeout(timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def deliver(self, record: Mapping[str, Any]) -> None:
        for failures in range(_TRIES):
            try:
                self._post(self._url, record)
                return
            except DeliveryError as exc:
                if failures == _TRIES - 1 or exc.retry_after_s is not None or not exc.concerns_all:
                    raise
            time.sleep(wait_s(self._policy, failures))

    def _post(self, url: httpx.URL, record: Mapping[str, Any], redirects: int = 0) -> None:
        try:
            with self._http.stream("POST", url, json=dict(record)) as response:
                status, headers, following = response.status_code, response.headers, response.next_request
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            reason = without_secrets(str(exc) or type(exc).__name__, str(self._url))
            raise DeliveryError(f"{self.name}: {reason}") from exc
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return
        keeps_post = status in (HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT)
        if (
            keeps_post
            and following is not None
            and redirects < _REDIRECTS
            and _is_same_host(url, following.url)
        ):
            self._post(following.url, record, redirects + 1)
            return
        raise DeliveryError(
            f"{self.name} answers {status}",
            concerns_all=status not in _OF_THE_RECORD,
            retry_after_s=_retry_after_s(headers),
        )


def _is_same_host(one: httpx.URL, other: httpx.URL) -> bool:
    return one.host == other.host and other.scheme in (one.scheme, "https")


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Return the hook's wish, None for nonsense: it comes from outside."""
    try:
        return parse_retry_after(headers.get("Retry-After"))
    except (ValueError, OverflowError, TypeError):
        return None


def _has_fileno() -> bool:
    try:
        sys.stderr.fileno()
    except (OSError, AttributeError):
        return False
    return True
