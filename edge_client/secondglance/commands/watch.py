"""`secondglance watch`: questions about pictures that keep coming."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondglance.commands.console import complain, exit_code_of_errors, progress
from secondglance.commands.lines import text_line
from secondglance.commands.options import (
    Json,
    MaxRounds,
    MaxUplinkBytes,
    ModeName,
    Strict,
    Threshold,
    Timeout,
    Url,
    terms_of,
)
from secondglance.commands.questions import Questions, QuestionsFile, all_questions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from secondglance.conversation.requests import Terms
    from secondglance.errors import EdgeError
    from secondglance.reply import Reply
    from secondglance.settings import EdgeSettings
    from secondglance.watching.answers.delivery import Delivery
    from secondglance.watching.spool import Spool, Waiting
    from secondglance.watching.watch import Watch


def watch(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", exists=True, file_okay=False, help="The folder to watch, with its subfolders."
        ),
    ] = None,
    question: Questions = None,
    questions: QuestionsFile = None,
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Watch a camera in place of DIR: an http(s) address, or one that ffmpeg reads.",
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="The time between two frames of a camera.")
    ] = 1.0,
    min_change: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            metavar="PERCENT",
            help="Skip a frame that differs from the last one by less; try 5.",
        ),
    ] = 0.0,
    existing: Annotated[
        bool, typer.Option("--existing", help="Ask about files that are there at the first start, too.")
    ] = False,
    settle: Annotated[
        float,
        typer.Option(
            min=0.01, metavar="SECONDS", help="A file is complete when it has not changed for this long."
        ),
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Ask about the files that are there (or one frame), then end.")
    ] = False,
    cmd: Annotated[
        str | None,
        typer.Option(
            metavar="PROGRAM",
            help="Run this for each answer, with the JSON on its stdin and without a shell.",
        ),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="POST each answer there as JSON.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="The folder that keeps what was asked."),
    ] = None,
    spool_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="BYTES",
            help="Waiting pictures may take this much disk; above it the oldest is dropped.",
        ),
    ] = 256 * 1024 * 1024,
    spool_age: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="A picture that has waited longer is dropped.")
    ] = 24 * 3600.0,
    status_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write the watch's health to this file as JSON."),
    ] = None,
    url: Url = None,
    json_: Json = False,
    mode: ModeName = "auto",
    threshold: Threshold = None,
    timeout: Timeout = None,
    max_uplink_bytes: MaxUplinkBytes = None,
    max_rounds: MaxRounds = 1,
    strict: Strict = False,
) -> None:
    """Ask the same questions about every new picture in DIR, or about a camera's frames.

    A file counts once it is complete: unchanged for --settle and with its format's end in place. Renamed
    files are not new, replaced ones are. What was asked about is remembered through restarts; files that came
    while nothing watched are asked about at the next start.

    Pictures wait on disk until they are answered, in order. While the server is away they pile up there,
    within --spool-bytes and --spool-age; what exceeds these is dropped, oldest first, and said. Nothing is
    asked twice. Ages do not count the time during which the board was off.

    Answers are handed on at least once. They wait on disk until PROGRAM has ended with 0 or the web hook has
    answered 2xx; then, tried with growing pauses or when Retry-After says, through restarts. What was not
    taken within --spool-age goes to a file of dead letters, which is named.

    A source that fails is started again with growing pauses; that is said once. Cameras and web hooks are
    reached through the proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, but for loopback and what NO_PROXY
    names.

    --camera takes an address of http(s)://, a JPEG stream or a still that is fetched again and again. All
    else (rtsp://, /dev/video0, a video file) is given to ffmpeg, from the PATH or from second-glance[camera].

    \b
    Examples:
      secondglance watch /srv/uploads -q "What is written on the sign?" --json
      secondglance watch inbox -q "Is the gate open?" --cmd "python notify.py" --once
      secondglance watch --camera rtsp://cam.local/1 -q "How many people?" --every 10 --min-change 5
      secondglance watch --camera http://cam.local/mjpeg -q "What number?" --webhook http://127.0.0.1:9000/

    \b
    PROGRAM finds SECONDGLANCE_NAME, SECONDGLANCE_QUESTION and SECONDGLANCE_ANSWER in its environment.
    JSON holds name, taken_at, question, waiting, dropped, and all that `ask --json` prints; what goes wrong
    is an object with event (failed, dropped, source), name and error.

    \b
    Environment: SECONDGLANCE_URL, SECONDGLANCE_API_KEY, SECONDGLANCE_EDGE_*
    Files: one SQLite file for each DIR or ADDRESS in --state, default the user's state folder.

    \b
    Exit codes:
      0 ended or stopped by SIGTERM   1 some pictures failed or answers were not taken   2 usage
      130 interrupted; with --once: 69 server unavailable   75 busy, try later   77 not allowed
    """
    asked = all_questions(question, questions)
    if (folder is None) == (camera is None):
        raise typer.BadParameter("name a folder, or a camera with --camera", param_hint="DIR")
    with exit_code_of_errors():
        from secondglance.settings import load_settings
        from secondglance.watching.spool import SpoolCaps
        from secondglance.watching.watch import Watch, WatchPlan

        plan = WatchPlan(
            tuple(asked),
            folder,
            camera,
            every_s=every,
            min_change_percent=min_change,
            takes_existing=existing,
            settle_s=settle,
            once=once,
            caps=SpoolCaps(spool_bytes, spool_age),
        )
        settings = load_settings(url=url)
        options: dict[str, Any] = {
            "warn": _warn,
            "report": _print_json if json_ else lambda event: None,
            "targets": _targets(cmd, webhook, settings),
            "status_file": status_file,
        }
        with Watch(plan, state or _state_folder(), settings, **options) as watching, progress() as show:
            terms = terms_of(mode, threshold, timeout, max_uplink_bytes, strict, max_rounds)
            teller = _Teller(watching.spool, show, as_json=json_, with_question=len(asked) > 1)
            was_stopped = _carry_out(watching, terms, teller, settings)
            undelivered = _tell_undelivered(watching, was_stopped)
            failures = teller.failures + watching.failures + undelivered
    if failures:
        raise typer.Exit(1)


def _carry_out(watching: Watch, terms: Terms, teller: _Teller, settings: EdgeSettings) -> bool:
    """Run the watch; return whether a signal stopped it."""
    from secondglance.client import EdgeClient

    with EdgeClient(settings=settings) as client:
        was_stopped = _stop_when_told(watching)
        watching.run(client.with_options(**terms).ask, teller)
    return was_stopped.is_set()


def _stop_when_told(watching: Watch) -> threading.Event:
    """SIGTERM settles the current question; a second one ends at once, which loses nothing either."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        return told

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        told.set()
        watching.stop()

    signal.signal(signal.SIGTERM, stop)
    return told


def _tell_undelivered(watching: Watch, was_stopped: bool) -> int:
    """Say how many answers wait to be handed on; return how many of them are a failure."""
    if not watching.undelivered:
        return 0
    _warn(f"{watching.undelivered} answers were not taken; those that wait are offered at the next start")
    return watching.given_up if was_stopped else watching.undelivered


def _warn(text: str) -> None:
    """Complain where that can be read; a full disk behind stderr must not end the watch."""
    with suppress(OSError):
        complain(text)


def _print_json(record: Mapping[str, Any]) -> None:
    _print(json.dumps(record))


def _print(line: str) -> None:
    """Write a line to stdout. Raises UsageError where it cannot be written."""
    from secondglance.errors import UsageError

    try:
        print(line, flush=True)
    except OSError as exc:
        with suppress(OSError, ValueError):  # or Python would try again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UsageError(f"cannot write answers to stdout: {exc.strerror}") from exc


class _Teller:
    """Prints what happens; the pipeline's listener."""

    def __init__(
        self,
        spool: Spool,
        show: Callable[[str], None],
        *,
        as_json: bool,
        with_question: bool,
    ) -> None:
        self._spool = spool
        self._show = show
        self._as_json = as_json
        self._with_question = with_question
        self._is_away = False
        self.failures = 0

    def answered(self, waiting: Waiting, question: str, reply: Reply) -> Mapping[str, Any]:
        record = self._record(waiting, question, reply)
        if self._is_away:
            _warn(f"the server is back; {record['waiting']} more wait")
            self._is_away = False
        if self._as_json:
            _print_json(record)
        else:
            line = text_line(
                waiting.name,
                question,
                reply.answer,
                with_question=self._with_question,
                doubtful=reply.doubtful,
            )
            _print(line)
        self._tell_state()
        return record

    def failed(self, waiting: Waiting, error: EdgeError) -> None:
        self.failures += 1
        _warn(f"{waiting.name}: {error}")
        if self._as_json:
            _print_json({"event": "failed", "name": waiting.name, "error": str(error)})
        self._tell_state()

    def away(self, error: EdgeError, pause_s: float) -> None:
        if not self._is_away:
            _warn(f"{error}; pictures wait until the server can be asked again")
            self._is_away = True
        self._tell_state()

    def _record(self, waiting: Waiting, question: str, reply: Reply) -> dict[str, Any]:
        return {
            "name": waiting.name,
            "taken_at": datetime.fromtimestamp(waiting.taken_at, UTC).isoformat(timespec="milliseconds"),
            "question": question,
            "waiting": len(self._spool) - 1,
            "dropped": self._spool.dropped,
            **reply.to_dict(),
        }

    def _tell_state(self) -> None:
        dropped = self._spool.dropped
        self._show(f"{self._spool.count('answered')} answered, {len(self._spool)} waiting, {dropped} dropped")


def _targets(cmd: str | None, webhook: str | None, settings: EdgeSettings) -> dict[str, Delivery]:
    from secondglance.watching.answers.delivery import Command, Webhook

    targets: dict[str, Delivery] = {}
    if cmd is not None:
        targets["cmd"] = Command(cmd)
    if webhook is not None:
        targets["webhook"] = Webhook(webhook, policy=settings.retry_policy)
    return targets


def _state_folder() -> Path:
    from platformdirs import user_state_path

    return user_state_path("secondglance")
