"""What a watch says of itself every second: drops in words, and its health for machines."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secondglance.errors import UsageError
from secondglance.watching.answers.outbox import Outbox
from secondglance.watching.spool import Spool
from secondglance.watching.supervisor import Supervisor

_BEAT_S = 1.0
_STATUS_EVERY_S = 5.0
_QUIET_S = 10.0  # between two lines about drops
_HANGS_S = 600.0  # a source without any turn for so long is not reported as alive


class StatusFile:
    """Replaces the file at `path` whole: no reader finds half of it. Raises UsageError at the start."""

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot write the status to {path}: it is no regular file")
        self._path = path
        try:
            self.write({})
        except OSError as exc:
            raise UsageError(f"cannot write the status to {path}: {exc.strerror}") from exc

    def write(self, status: Mapping[str, Any]) -> None:
        """Raises OSError."""
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            new.write_text(json.dumps(status) + "\n")
            new.replace(self._path)
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise


def notify_systemd(message: str) -> None:
    """Tell the service manager, if there is one: READY=1, WATCHDOG=1, STATUS=..."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


class Pulse:
    """Tells drops and health; `server_error` is what keeps the server from being asked, None if nothing."""

    def __init__(
        self,
        spool: Spool,
        outbox: Outbox,
        supervisor: Supervisor,
        status: StatusFile | None,
        *,
        warn: Callable[[str], None],
        report: Callable[[Mapping[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._outbox = outbox
        self._supervisor = supervisor
        self._status = status
        self._warn = warn
        self._report = report
        self._clock = clock
        self._status_fails = False
        self._said_at = -_QUIET_S
        self.server_error: str | None = None

    def run(self, stopping: threading.Event) -> None:
        """Beat until told to stop."""
        notify_systemd("READY=1")
        write_at = 0.0
        while not stopping.is_set():
            with suppress(sqlite3.Error):  # said by those who write
                if self._clock() - self._said_at >= _QUIET_S:
                    self.tell_drops()
                if self._clock() >= write_at:
                    self.tell_health()
                    write_at = self._clock() + _STATUS_EVERY_S
            stopping.wait(_BEAT_S)
        notify_systemd("STOPPING=1")

    def tell_drops(self) -> None:
        """Say how many pictures were dropped, if some were since that was said; restarts forget nothing."""
        dropped = self._spool.dropped
        new = dropped - self._spool.count("drops_told")
        if new <= 0:
            return
        self._said_at = self._clock()
        self._warn(f"{dropped} pictures were dropped so far: more than the spool may hold, or too old")
        self._report({"event": "dropped", "name": self._supervisor.health.name, "dropped": dropped})
        self._spool.note("drops_told", new)

    def tell_health(self) -> None:
        """Write the status file and feed systemd's watchdog."""
        status = self.status()
        if self._clock() - self._supervisor.last_turn < _HANGS_S + self._supervisor.steady_s:
            notify_systemd(f"WATCHDOG=1\nSTATUS={status['answered']} answered, {status['waiting']} waiting")
        if self._status is None:
            return
        try:
            self._status.write(status)
            self._status_fails = False
        except OSError as exc:
            if not self._status_fails:
                self._warn(f"cannot write the status file: {exc.strerror}")
            self._status_fails = True

    def status(self) -> dict[str, Any]:
        """Return how the watch fares, as the status file holds it."""
        health = self._supervisor.health
        return {
            "updated_at": _iso(time.time()),
            "pid": os.getpid(),
            "is_well": health.state != "failing" and self.server_error is None,
            "source": {
                "name": health.name,
                "state": health.state,
                "error": health.error,
                "restarts": health.restarts,
                "seen_at": None if health.seen_at is None else _iso(health.seen_at),
            },
            "server_error": self.server_error,
            "waiting": len(self._spool),
            "answered": self._spool.count("answered"),
            "failed": self._spool.count("failed"),
            "dropped": self._spool.dropped,
            "to_hand_on": len(self._outbox),
        }


def _iso(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")
