"""One HTML file with everything inlined: no network, light and dark, phones and desks.

The template `page.html` escapes every text that it is given.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import jinja2

from secondglance_eval.report.tables import TextTable


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; a faint one is set smaller."""

    kind: ClassVar[str] = "paragraph"
    text: str
    is_faint: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table that scrolls sideways on its own where the screen is narrow."""

    kind: ClassVar[str] = "table"
    content: TextTable


@dataclass(frozen=True, slots=True)
class PlotFigure:
    """A plot as two PNGs, one for light pages and one for dark ones."""

    light: bytes
    dark: bytes
    description: str


@dataclass(frozen=True, slots=True)
class Plots:
    """Plots side by side where there is room."""

    kind: ClassVar[str] = "plots"
    plots: Sequence[PlotFigure]


@dataclass(frozen=True, slots=True)
class CaseFigure:
    """A JPEG of one case, its question, and more lines about it."""

    jpeg: bytes
    question: str
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Cases:
    """Cases side by side where there is room."""

    kind: ClassVar[str] = "cases"
    cases: Sequence[CaseFigure]


Part: TypeAlias = Heading | Paragraph | Table | Plots | Cases


def page(title: str, parts: Sequence[Part]) -> str:
    """Return the whole document."""
    return _template().render(title=title, parts=parts)


@functools.cache
def _template() -> jinja2.Template:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("secondglance_eval.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["data_uri"] = _data_uri
    return templates.get_template("page.html")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
