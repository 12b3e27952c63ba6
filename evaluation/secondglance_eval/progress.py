"""How far a run is, on stderr: a bar with the time to go on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Step = Callable[[], None]

_SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def progress(what: str, total: int) -> Iterator[Step]:
    """Yields a function that is called once for each of `total` steps."""
    with (_bar if sys.stderr.isatty() else _lines)(what, total) as step:
        yield step


@contextmanager
def _bar(what: str, total: int) -> Iterator[Step]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def _lines(what: str, total: int) -> Iterator[Step]:
    began = last = time.monotonic()
    done = 0

    def step() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            to_go = (now - began) / done * (total - done) / 60
            print(f"{what}: {done}/{total}, {to_go:.0f} min to go", file=sys.stderr, flush=True)

    yield step
