"""A bar on stderr that shows how far a run is; on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    total: int, *, name: str = "", line_every_s: float | None = None
) -> Iterator[Callable[[int, str], None]]:
    """Yield a function that is told how many of `total` are done, and a few words for beside the bar.

    The words that were told last stay on the terminal when the bar goes. Where stderr is no terminal, nothing
    is shown, or a line every `line_every_s` seconds.
    """
    if not sys.stderr.isatty():
        yield _lines(total, name, line_every_s)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    last = ""
    # Answers that go to a file or a pipe must not be taken for something to show.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        shown = bar.add_task(name or "starting", total=total)

        def show(done: int, words: str) -> None:
            nonlocal last
            last = words or name
            bar.update(shown, completed=done, description=last)

        yield show
    if last:
        console.print(last, style="dim")


def _lines(total: int, name: str, every_s: float | None) -> Callable[[int, str], None]:
    began = last = time.monotonic()

    def show(done: int, words: str) -> None:
        nonlocal last
        now = time.monotonic()
        if every_s is None or now - last < every_s or not done:
            return
        last = now
        to_go = (now - began) / done * (total - done) / 60
        print(f"{name}: {done}/{total}, {to_go:.0f} min to go", file=sys.stderr, flush=True)

    return show
