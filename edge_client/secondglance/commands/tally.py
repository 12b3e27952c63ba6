"""What a run over many pictures has come to, as a line that moves while it runs and one when it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from secondglance.reply import Reply


@dataclass(slots=True)
class Tally:
    """Counts questions. Bytes are those of the answered ones, an original's once however much is asked."""

    answered: int = 0
    failed: int = 0
    skipped: int = 0
    uplink_bytes: int = 0
    original_bytes: int = 0

    def add(self, reply: Reply, *, is_first: bool) -> None:
        """Count an answer; `is_first` is the first about its picture."""
        self.answered += 1
        self.uplink_bytes += reply.receipt.uplink_bytes
        if is_first:
            self.original_bytes += reply.receipt.original_bytes or 0

    def __str__(self) -> str:
        from secondglance.show.answer_sheet import readable_bytes

        words = [f"{self.answered} answered"]
        if self.failed:
            words.append(f"{self.failed} failed")
        if self.skipped:
            words.append(f"{self.skipped} had been answered before")
        if self.original_bytes:
            saved = readable_bytes(max(0, self.original_bytes - self.uplink_bytes))
            words.append(f"{readable_bytes(self.uplink_bytes)} up, {saved} saved")
        return ", ".join(words)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[Tally], None]]:
    """A bar with the time left and the bytes saved, and the tally when it ends; on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda tally: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    last: Tally | None = None
    # Answers that go to a file or a pipe must not be taken for something to show.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        shown = bar.add_task("starting", total=total)

        def show(tally: Tally) -> None:
            nonlocal last
            last = tally
            bar.update(shown, completed=tally.answered + tally.failed, description=str(tally))

        yield show
    if last is not None:
        console.print(str(last), style="dim")
