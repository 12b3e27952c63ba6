"""A whole watch: its state, its source under a supervisor, deliveries, and the pipeline that asks."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secondglance.conversation.failures import wait_s
from secondglance.errors import EdgeError, UsageError
from secondglance.reply import Reply
from secondglance.settings import EdgeSettings
from secondglance.text import shown_path
from secondglance.watching import camera
from secondglance.watching.answers.courier import Courier
from secondglance.watching.answers.delivery import Delivery
from secondglance.watching.answers.outbox import Outbox
from secondglance.watching.changes import ChangeFilter
from secondglance.watching.folder import Arrival, Folder, Unreadable
from secondglance.watching.pipeline import Asker, Listener, Pipeline
from secondglance.watching.pulse import Pulse, StatusFile
from secondglance.watching.sightings import Sightings
from secondglance.watching.spool import Spool, SpoolCaps, Waiting
from secondglance.watching.state import WatchState, state_path
from secondglance.watching.supervisor import SourceEndedError, Supervisor, reason_of
from secondglance.wire.addresses import shown_address

_FORGET_EVERY_S = 3600.0
_LAST_WORDS_S = 5.0  # for threads, at the end
_OF_ONE_ITEM = (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.IntegrityError)


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What to watch and how. Exactly one of `folder` and `camera` is given."""

    questions: tuple[str, ...]
    folder: Path | None = None
    camera: str | None = None
    every_s: float = 1.0
    min_change_percent: float = 0.0
    takes_existing: bool = False
    settle_s: float = 1.0
    once: bool = False
    caps: SpoolCaps = field(default_factory=SpoolCaps)


class Watch:
    """Use as a context manager, then `run`.

    `warn` is told what goes wrong beside the asking, in words; `report` the same as a mapping with `event`
    and `name`. `targets` take answers. `failures` counts pictures lost before they could be asked about.
    """

    def __init__(
        self,
        plan: WatchPlan,
        state_folder: Path,
        settings: EdgeSettings,
        *,
        warn: Callable[[str], None],
        report: Callable[[Mapping[str, Any]], None] = lambda event: None,
        targets: Mapping[str, Delivery] | None = None,
        status_file: Path | None = None,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._warn = warn
        self._report = report
        self._targets = targets or {}
        self._stopping = threading.Event()
        self._courier_stops = threading.Event()
        self._source_is_done = threading.Event()
        self._source_error: Exception | None = None
        self._exit = ExitStack()
        self._threads: list[threading.Thread] = []
        status = StatusFile(status_file) if status_file is not None else None
        name = plan.camera or os.path.realpath(plan.folder or ".")
        path = state_path(state_folder, name)
        self._state = self._exit.enter_context(WatchState(path))
        self.spool = Spool(self._state, plan.caps)
        self._outbox = Outbox(self._state)
        self._courier = Courier(
            self._outbox,
            self._targets,
            policy=settings.retry_policy,
            max_age_s=plan.caps.max_age_s,
            dead_letters=path.with_suffix(".undelivered.jsonl"),
            warn=warn,
            now=self._state.age,
        )
        self._supervisor = Supervisor(
            shown_address(name) if plan.camera else shown_path(name),
            policy=settings.retry_policy,
            stopping=self._stopping,
            warn=self._warn_of_source,
            steady_s=max(60.0, 5 * plan.every_s) if plan.camera else 5.0,
        )
        self._pulse = Pulse(self.spool, self._outbox, self._supervisor, status, warn=warn, report=report)
        self._changes = ChangeFilter(plan.min_change_percent, max_pixels=settings.max_original_pixels)
        self._pace = camera.Pace(plan.every_s)
        self._pipeline: Pipeline | None = None
        self.failures = 0

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._courier_stops.set()
        self._courier.arrived.set()
        for thread in self._threads:
            thread.join(_LAST_WORDS_S)
        self._exit.close()

    def run(self, ask: Asker, listener: Listener) -> None:
        """Return when the source has ended and all is settled, or after `stop`. Raises EdgeError."""
        self._pipeline = Pipeline(
            self.spool,
            ask,
            _Told(listener, self._pulse),
            policy=self._settings.retry_policy,
            more_to_come=lambda: not self._source_is_done.is_set(),
            waits_for_server=not self._plan.once,
            hand_on=self._courier.put if self._targets else None,
        )
        try:
            self._courier.start()
            self._start("source", self._follow)
            self._start("pulse", lambda: self._pulse.run(self._stopping))
            if self._targets:
                self._start("courier", lambda: self._courier.run(self._courier_stops))
            self._settle_all()
        except sqlite3.Error as exc:  # a full disk, say; what is on it stays right
            raise UsageError(f"cannot write what waits: {exc}") from exc
        finally:
            self._stopping.set()
            with suppress(sqlite3.Error):
                self._pulse.tell_drops()

    def stop(self) -> None:
        """Settle the current question and return from `run`."""
        self._stopping.set()
        if self._pipeline is not None:
            self._pipeline.stop()

    @property
    def given_up(self) -> int:
        """Answers that became dead letters."""
        return self._courier.given_up

    @property
    def undelivered(self) -> int:
        """Answers that were given up, and those that still wait to be taken."""
        return self._courier.given_up + sum(map(self._outbox.waiting_for, self._targets))

    def _start(self, name: str, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work, name=name, daemon=True))
        self._threads[-1].start()

    def _settle_all(self) -> None:
        """Ask, and wait out a disk that is full, until there is nothing more to ask or hand on."""
        assert self._pipeline is not None, "`run` makes it"
        failures = 0
        while True:
            try:
                self._pipeline.run()
                break
            except sqlite3.Error as exc:
                if self._plan.once or self._stopping.is_set():
                    raise
                if failures == 0:
                    self._warn(f"cannot write what waits: {exc}; trying again")
                self._stopping.wait(wait_s(self._settings.retry_policy, failures))
                failures += 1
        self._hand_on_the_rest()
        if self._source_error is not None:
            raise self._source_error

    def _hand_on_the_rest(self) -> None:
        """Wait until all answers are taken; with `once`, offer each that was not offered yet."""
        if self._plan.once:
            self._courier_stops.set()
            self._courier.arrived.set()
            for thread in self._threads:
                if thread.name == "courier":
                    thread.join()
            self._courier.deliver_due()
            return
        while not self._stopping.is_set() and any(map(self._outbox.waiting_for, self._targets)):
            self._stopping.wait(0.05)

    def _follow(self) -> None:
        """The source's thread; whatever ends it, the pipeline learns of it."""
        attempt = self._attempt_camera if self._plan.camera is not None else self._attempt_folder
        try:
            if self._plan.once:
                attempt()
            else:
                self._supervisor.run(attempt)
        except (EdgeError, sqlite3.Error) as exc:
            self._source_error = exc
        except Exception as exc:  # a thread's outermost boundary: raised again by `run`
            self._source_error = EdgeError(reason_of(exc))
        finally:
            self._source_is_done.set()
            assert self._pipeline is not None, "the source is followed for the pipeline"
            self._pipeline.arrived.set()

    def _attempt_folder(self) -> None:
        sightings = Sightings(self._state)
        root = self._plan.folder or Path()
        folder = Folder(root, sightings, settle_s=self._plan.settle_s, max_bytes=self._plan.caps.max_bytes)
        if self._plan.takes_existing or self._plan.once:
            sightings.forget_skipped()
        elif self._state.is_new:
            folder.skip_present()
            if folder.trouble is not None:
                raise SourceEndedError(folder.trouble)
        self._state.begin()
        forget_at = time.monotonic() + _FORGET_EVERY_S
        while not self._stopping.is_set():
            began, works = time.monotonic(), False
            for found in folder.scan():
                self._take(found, sightings)
                works = True
                if self._stopping.is_set():
                    return
            self._tell_health(folder, works or folder.is_settled)
            if self._plan.once and folder.is_settled:
                return
            if time.monotonic() > forget_at:
                folder.forget_vanished()
                forget_at = time.monotonic() + _FORGET_EVERY_S
            took_s = time.monotonic() - began
            self._stopping.wait(max(min(1.0, self._plan.settle_s / 2), 4 * took_s))

    def _tell_health(self, folder: Folder, works: bool) -> None:
        """A look that only found what has to settle shows nothing yet: it may not fit the disk."""
        self._supervisor.turn()
        if folder.trouble is None:
            if works:
                self._supervisor.alive()
        elif self._plan.once:
            raise SourceEndedError(f"{shown_path(str(self._plan.folder))}: {folder.trouble}")
        else:
            self._supervisor.trouble(folder.trouble)

    def _take(self, found: Arrival | Unreadable, sightings: Sightings) -> None:
        """Let a file wait to be asked about. What is wrong with it alone is recorded with it."""
        if isinstance(found, Unreadable):
            if found.is_too_large:
                sightings.add(found.path, found.stamp, "")
                self.spool.note("dropped_for_size")
            self._lose(shown_path(found.path), found.reason)
            return
        try:
            with self._state.transaction():
                self._put(shown_path(found.path), found.picture, found.modified_at)
                sightings.add(found.path, found.stamp, found.sha256)
        except sqlite3.Error as exc:
            if not isinstance(exc, _OF_ONE_ITEM):
                raise
            self._lose(shown_path(found.path), reason_of(exc))
            sightings.add(found.path, found.stamp, found.sha256)
        except Exception as exc:  # a file cannot end its source
            self._lose(shown_path(found.path), reason_of(exc))
            sightings.add(found.path, found.stamp, found.sha256)

    def _lose(self, name: str, reason: str) -> None:
        self.failures += 1
        self._warn(f"{name}: {reason}")
        self._report({"event": "failed", "name": name, "error": reason})

    def _attempt_camera(self) -> None:
        spec = self._plan.camera or ""
        self._stopping.wait(self._pace.due_in_s())
        stream = camera.frames(spec, every_s=self._plan.every_s, pace=self._pace, stopping=self._stopping)
        for frame in stream:
            name = datetime.now(UTC).isoformat(timespec="milliseconds")
            try:
                self._put(name, frame, time.time())
            except sqlite3.Error as exc:
                self._lose(name, f"this frame is lost: {exc}")
                raise
            self._supervisor.alive()
            if self._plan.once or self._stopping.is_set():
                return
        if not (os.path.isfile(spec) or self._stopping.is_set()):  # a video does not go on
            raise SourceEndedError("the camera has ended its stream")

    def _put(self, name: str, picture: bytes, taken_at: float) -> None:
        if not self._changes.passes(picture):
            return
        self.spool.add(name, picture, self._plan.questions, taken_at=taken_at)
        assert self._pipeline is not None, "the source is followed for the pipeline"
        self._pipeline.arrived.set()

    def _warn_of_source(self, text: str) -> None:
        self._warn(text)
        self._report({"event": "source", "name": self._supervisor.health.name, "error": text})


class _Told:
    """Passes on to the listener what happens, and notes whether the server is away."""

    def __init__(self, listener: Listener, pulse: Pulse) -> None:
        self._listener = listener
        self._pulse = pulse

    def answered(self, waiting: Waiting, question: str, reply: Reply) -> Mapping[str, Any] | None:
        self._pulse.server_error = None
        return self._listener.answered(waiting, question, reply)

    def failed(self, waiting: Waiting, error: EdgeError) -> None:
        self._listener.failed(waiting, error)

    def away(self, error: EdgeError, pause_s: float) -> None:
        self._pulse.server_error = str(error)
        self._listener.away(error, pause_s)
