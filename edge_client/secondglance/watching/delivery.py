"""Handing answers on: to a program's standard input or to a web hook. Nothing goes through a shell.

An answer is delivered at least once: a watch that is killed between delivering and noting it does so again,
with the same `id`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, Self

import httpx

from secondglance.conversation.failures import wait_s
from secondglance.errors import UsageError
from secondglance.retry import RetryPolicy

_TRIES = 3


class DeliveryError(Exception):
    """The answer was not taken."""


class Delivery(Protocol):
    """Somewhere for answers to go."""

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
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise DeliveryError(f"{self._words[0]}: {exc}") from exc
        if ran.returncode:
            raise DeliveryError(f"{self._words[0]} ended with exit code {ran.returncode}")


class Webhook:
    """POSTs each answer as JSON; tries again a few times if that fails."""

    def __init__(self, url: str, *, policy: RetryPolicy, timeout_s: float = 10.0) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as exc:
            raise UsageError(f"--webhook: {exc}") from exc
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(f"--webhook: not an http or https URL: {url!r}")
        self._url = parsed
        self._policy = policy
        self._http = httpx.Client(timeout=timeout_s, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def deliver(self, record: Mapping[str, Any]) -> None:
        for failures in range(_TRIES):
            try:
                self._http.post(self._url, json=dict(record)).raise_for_status()
                return
            except httpx.HTTPError as exc:
                if failures == _TRIES - 1:
                    raise DeliveryError(f"{self._url.host}: {exc}") from exc
            time.sleep(wait_s(self._policy, failures))


def _has_fileno() -> bool:
    try:
        sys.stderr.fileno()
    except (OSError, AttributeError):
        return False
    return True
