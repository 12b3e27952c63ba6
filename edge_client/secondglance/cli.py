"""The roof of the command line: names of the commands, and where each of them lives.

A command is a function in a module of its own under `secondglance.commands`, found and imported when it is
run or listed. Those modules import only typer and the standard library at their top, so that `--help` and
shell completion start at once; what a command needs is imported when it runs.

Exit codes: 0 ok, 1 some of many failed, 2 usage, 65 bad image, 69 server unavailable, 75 busy or try later,
77 not allowed, 124 timed out, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = ("ask", "batch", "watch", "doctor", "gateway")
"""In the order of `--help`. The command `x` is the function `x` of `secondglance.commands.x`."""


class _Commands(Mapping[str, Any]):
    """The commands by name; a command's module is imported when the command is looked up."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        module = importlib.import_module(f"secondglance.commands.{name}")
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name, context_settings={"help_option_names": ["-h", "--help"]})(getattr(module, name))
        return typer.main.get_command(single)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _LazyGroup(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment]  # nobody adds to it


# Plain help, no panels: it reads like a manual page, pipes well and does not wait for rich.
app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"secondglance {version('second-glance')}")
        raise typer.Exit


@app.callback()
def _secondglance(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which this is.")
    ] = False,
) -> None:
    """Ask about large pictures without sending them whole.

    A small copy of the picture goes to the server with the question; if its model is unsure, the region that
    it asks for follows at full detail. Answers go to stdout and nothing else does; progress goes to stderr if
    that is a terminal.

    \b
    Environment:
      SECONDGLANCE_URL       the server, http://127.0.0.1:8000 if unset
      SECONDGLANCE_API_KEY   the key, if the server wants one
      SECONDGLANCE_EDGE_*    qualities, timeouts, retries (README)
      NO_COLOR               no colours on stderr

    \b
    Exit codes:
      0 ok   1 some of many failed   2 usage   3 not sure (ask --fail-on-doubt)
      65 bad image   69 server unavailable   75 busy, try later   77 not allowed
      124 timed out   130 interrupted
    """


def main() -> None:
    """Entry point of `secondglance`. What a terminal's encoding lacks becomes an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="secondglance")


if __name__ == "__main__":
    main()
