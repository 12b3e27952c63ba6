"""`secondglance watch`: questions about pictures that keep coming."""

from __future__ import annotations

import json
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondglance.commands.console import complain, exit_code_of_errors, progress
from secondglance.commands.lines import printable, text_line
from secondglance.commands.options import (
    Json,
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
    from collections.abc import Callable, Sequence

    from secondglance.conversation.requests import Terms
    from secondglance.errors import EdgeError
    from secondglance.reply import Reply
    from secondglance.settings import EdgeSettings
    from secondglance.watching.delivery import Delivery
    from secondglance.watching.spool import Spool, Waiting
    from secondglance.watching.watch import Watch


def watch(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Watched to the bottom."),
    ] = None,
    question: Questions = None,
    questions: QuestionsFile = None,
    camera: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Instead of DIR: http(s), or what ffmpeg knows.")
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="Between the frames of a camera.")
    ] = 1.0,
    min_change: Annotated[
        float,
        typer.Option(min=0, max=100, metavar="PERCENT", help="Skip what looks like the last one; try 5."),
    ] = 0.0,
    existing: Annotated[
        bool, typer.Option("--existing", help="Ask about files that are there at the first start, too.")
    ] = False,
    settle: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="Unchanged for this long is complete.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="What is there and not asked about yet (or one frame), then end.")
    ] = False,
    cmd: Annotated[
        str | None, typer.Option(metavar="PROGRAM", help="Run for each answer; JSON on its stdin, no shell.")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="POST each answer there as JSON.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Remember here what was asked.")
    ] = None,
    spool_bytes: Annotated[
        int, typer.Option(min=1, metavar="BYTES", help="So much may wait; then the oldest is dropped.")
    ] = 256 * 1024 * 1024,
    spool_age: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="What has waited longer is dropped.")
    ] = 24 * 3600.0,
    url: Url = None,
    json_: Json = False,
    mode: ModeName = "auto",
    threshold: Threshold = None,
    timeout: Timeout = None,
    max_uplink_bytes: MaxUplinkBytes = None,
    strict: Strict = False,
) -> None:
    """Ask the same questions about every new picture in DIR, or about a camera's frames.

    A file counts once it is complete: unchanged for --settle and with its format's end in place. Renamed
    files are not new, replaced ones are. What was asked about is remembered through restarts; files that came
    while nothing watched are asked about at the next start.

    Pictures wait on disk until they are answered, in order. While the server is away they pile up there,
    within --spool-bytes and --spool-age; what exceeds these is dropped, oldest first, and counted. Nothing is
    asked twice. Answers are handed on at least once: a watch that is killed just then hands the same id on
    again.

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
    JSON holds name, taken_at, question, waiting, dropped, and all that `ask --json` prints.

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
        deliveries = _deliveries(cmd, webhook, settings)
        with Watch(plan, state or _state_folder(), settings, warn=complain) as watching, progress() as show:
            terms = terms_of(mode, threshold, timeout, max_uplink_bytes, strict)
            teller = _Teller(watching.spool, deliveries, show, as_json=json_, with_question=len(asked) > 1)
            _carry_out(watching, terms, teller, settings)
    if teller.failures:
        raise typer.Exit(1)


def _carry_out(watching: Watch, terms: Terms, teller: _Teller, settings: EdgeSettings) -> None:
    from secondglance.client import EdgeClient

    with EdgeClient(settings=settings) as client:
        _stop_when_told(watching)
        watching.run(client.with_options(**terms).ask, teller)


def _stop_when_told(watching: Watch) -> None:
    """SIGTERM settles the current question; a second one ends at once, which loses nothing either."""
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        watching.stop()

    signal.signal(signal.SIGTERM, stop)


class _Teller:
    """Prints and hands on what happens; the pipeline's listener."""

    def __init__(
        self,
        spool: Spool,
        deliveries: Sequence[Delivery],
        show: Callable[[str], None],
        *,
        as_json: bool,
        with_question: bool,
    ) -> None:
        self._spool = spool
        self._deliveries = deliveries
        self._show = show
        self._as_json = as_json
        self._with_question = with_question
        self._is_away = False
        self._told_dropped = 0
        self.failures = 0

    def answered(self, waiting: Waiting, question: str, reply: Reply) -> None:
        record = self._record(waiting, question, reply)
        if self._is_away:
            complain(f"the server is back; {record['waiting']} more wait")
            self._is_away = False
        if self._as_json:
            print(json.dumps(record), flush=True)
        else:
            line = text_line(waiting.name, question, reply.answer, with_question=self._with_question)
            print(line, flush=True)
        self._hand_on(record)
        self._tell_state()

    def failed(self, waiting: Waiting, error: EdgeError) -> None:
        self.failures += 1
        complain(printable(f"{waiting.name}: {error}"))
        self._tell_state()

    def away(self, error: EdgeError, pause_s: float) -> None:
        if not self._is_away:
            complain(f"{error}; pictures wait until the server can be asked again")
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

    def _hand_on(self, record: dict[str, Any]) -> None:
        from secondglance.watching.delivery import DeliveryError

        for delivery in self._deliveries:
            try:
                delivery.deliver(record)
            except DeliveryError as exc:
                self.failures += 1
                complain(printable(f"{record['name']}: not handed on: {exc}"))

    def _tell_state(self) -> None:
        dropped = self._spool.dropped
        if dropped >= max(1, 2 * self._told_dropped):  # not a line for each of thousands
            complain(f"{dropped} pictures were dropped so far: more than the spool may hold, or too old")
            self._told_dropped = dropped
        self._show(f"{self._spool.count('answered')} answered, {len(self._spool)} waiting, {dropped} dropped")


def _deliveries(cmd: str | None, webhook: str | None, settings: EdgeSettings) -> list[Delivery]:
    from secondglance.watching.delivery import Command, Webhook

    deliveries: list[Delivery] = []
    if cmd is not None:
        deliveries.append(Command(cmd))
    if webhook is not None:
        deliveries.append(Webhook(webhook, policy=settings.retry_policy))
    return deliveries


def _state_folder() -> Path:
    from platformdirs import user_state_path

    return user_state_path("secondglance")
