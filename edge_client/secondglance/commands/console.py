"""What commands say besides their result: complaints, progress, exit codes. All of it on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer


def complain(text: str) -> None:
    """Show an error or a warning, on a terminal or not; what is unprintable in it is escaped."""
    from secondglance.text import printable

    print(f"secondglance: {printable(text)}", file=sys.stderr)


@contextmanager
def exit_code_of_errors() -> Iterator[None]:
    """Say what went wrong and leave with the error's exit code."""
    from secondglance.errors import EdgeError

    try:
        yield
    except EdgeError as exc:
        reference = f" (request {exc.request_id})" if exc.request_id else ""
        complain(f"{exc}{reference}")
        raise typer.Exit(exc.exit_code) from exc


@contextmanager
def progress(*, is_wanted: bool = True) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is going on; silent unless stderr is a terminal."""
    if not (is_wanted and sys.stderr.isatty()):
        yield lambda text: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from secondglance.text import printable

    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as line:
        shown = line.add_task("starting", total=None)
        yield lambda text: line.update(shown, description=escape(printable(text)))


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """An output that cannot be written is wrong usage."""
    from secondglance.errors import UsageError

    try:
        yield
    except OSError as exc:
        raise UsageError(f"cannot write {target}: {exc}") from exc
