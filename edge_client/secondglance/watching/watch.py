"""A whole watch: its state, its source in a thread of its own, and the pipeline in the caller's."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from secondglance.conversation.failures import wait_s
from secondglance.errors import UsageError
from secondglance.settings import EdgeSettings
from secondglance.watching import camera
from secondglance.watching.changes import ChangeFilter
from secondglance.watching.folder import Folder
from secondglance.watching.pipeline import Asker, Listener, Pipeline
from secondglance.watching.sightings import Sightings
from secondglance.watching.spool import Spool, SpoolCaps
from secondglance.watching.state import WatchState, state_path

_FORGET_EVERY_S = 3600.0


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
    """Use as a context manager, then `run`. `warn` is told what goes wrong beside the asking."""

    def __init__(
        self, plan: WatchPlan, state_folder: Path, settings: EdgeSettings, *, warn: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._warn = warn
        self._stopping = threading.Event()
        self._source_is_done = threading.Event()
        self._source_error: Exception | None = None
        self._exit = ExitStack()
        name = plan.camera or os.path.realpath(plan.folder or ".")
        self._state = self._exit.enter_context(WatchState(state_path(state_folder, name)))
        self.spool = Spool(self._state, plan.caps)
        self._changes = ChangeFilter(plan.min_change_percent, max_pixels=settings.max_original_pixels)
        self._pipeline: Pipeline | None = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._exit.close()

    def run(self, ask: Asker, listener: Listener) -> None:
        """Until the source has ended and all is settled, or `stop`. Raises EdgeError."""
        self._pipeline = Pipeline(
            self.spool,
            ask,
            listener,
            policy=self._settings.retry_policy,
            more_to_come=lambda: not self._source_is_done.is_set(),
            waits_for_server=not self._plan.once,
        )
        source = threading.Thread(target=self._follow, name="source", daemon=True)
        source.start()
        try:
            self._pipeline.run()
            self._stopping.set()
            if self._source_error is not None:
                raise self._source_error
        except sqlite3.Error as exc:  # a full disk, say; what is on it stays right
            raise UsageError(f"cannot write what waits: {exc}") from exc

    def stop(self) -> None:
        """Settle the current question and return from `run`."""
        self._stopping.set()
        if self._pipeline is not None:
            self._pipeline.stop()

    def _follow(self) -> None:
        """The source's thread; whatever ends it, the pipeline learns of it."""
        try:
            if self._plan.camera is not None:
                self._follow_camera(self._plan.camera)
            else:
                self._follow_folder(self._plan.folder or Path())
        except Exception as exc:  # a thread's outermost boundary: raised again by `run`
            self._source_error = exc
        finally:
            self._source_is_done.set()
            assert self._pipeline is not None, "the source is followed for the pipeline"
            self._pipeline.arrived.set()

    def _follow_folder(self, root: Path) -> None:
        sightings = Sightings(self._state)
        folder = Folder(root, sightings, settle_s=self._plan.settle_s)
        if self._plan.takes_existing or self._plan.once:
            sightings.forget_skipped()
        elif self._state.is_new:
            folder.skip_present()
        self._state.begin()
        forget_at = time.monotonic() + _FORGET_EVERY_S
        while not self._stopping.is_set():
            began = time.monotonic()
            for arrival in folder.scan():
                with self._state.transaction():
                    self._put(arrival.path, arrival.picture, arrival.modified_at)
                    sightings.add(arrival.path, arrival.stamp, arrival.sha256)
            if self._plan.once and folder.is_settled:
                return
            if time.monotonic() > forget_at:
                folder.forget_vanished()
                forget_at = time.monotonic() + _FORGET_EVERY_S
            took_s = time.monotonic() - began
            self._stopping.wait(max(min(1.0, self._plan.settle_s / 2), 4 * took_s))

    def _follow_camera(self, spec: str) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                for frame in camera.frames(spec, every_s=self._plan.every_s):
                    failures = 0
                    self._put(datetime.now(UTC).isoformat(timespec="milliseconds"), frame, time.time())
                    if self._plan.once or self._stopping.is_set():
                        return
                if Path(spec).is_file():
                    return  # a video does not go on
                ended = "the camera has ended its stream"
            except camera.CameraError as exc:
                if self._plan.once:
                    raise
                ended = str(exc)
            if failures == 0:
                self._warn(f"{ended}; trying again until it is back")
            self._stopping.wait(wait_s(self._settings.retry_policy, failures))
            failures += 1

    def _put(self, name: str, picture: bytes, taken_at: float) -> None:
        if not self._changes.passes(picture):
            return
        self.spool.add(name, picture, self._plan.questions, taken_at=taken_at)
        assert self._pipeline is not None, "the source is followed for the pipeline"
        self._pipeline.arrived.set()
