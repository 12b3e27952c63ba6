"""One HTML file with everything inlined: no network, light and dark, phones and desks."""

from __future__ import annotations

import base64
import html
import importlib.resources
from collections.abc import Iterable, Sequence
from pathlib import Path

from secondglance_eval.report.tables import TextTable

_STYLE = importlib.resources.files("secondglance_eval.report").joinpath("page.css").read_text()


def page(title: str, parts: Iterable[str]) -> str:
    """The whole document; `parts` are HTML."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><main>\n<h1>{html.escape(title)}</h1>\n{body}\n</main></body></html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str, *, faint: bool = False) -> str:
    kind = ' class="faint"' if faint else ""
    return f"<p{kind}>{html.escape(text)}</p>"


def table(content: TextTable) -> str:
    """Scrolls sideways on its own where the screen is narrow."""
    rows = [_row("th", content.head, is_marked=False)]
    rows += [_row("td", row, is_marked=number == content.marked) for number, row in enumerate(content.rows)]
    caption = f"<caption>{html.escape(content.title)}</caption>"
    return f'<div class="wide" tabindex="0"><table>{caption}{"".join(rows)}</table></div>'


def plot(light: Path, dark: Path, description: str) -> str:
    """A plot in the page's own colours."""
    return (
        "<figure><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark.read_bytes(), "png")}">'
        f'<img src="{_data_uri(light.read_bytes(), "png")}" alt="{html.escape(description)}"></picture>'
        f"<figcaption>{html.escape(description)}</figcaption></figure>"
    )


def case(picture_jpeg: bytes, lines: Sequence[str]) -> str:
    question, *others = (html.escape(line) for line in lines)
    return (
        f'<figure><img src="{_data_uri(picture_jpeg, "jpeg")}" alt="{question}">'
        f"<figcaption><b>{question}</b><br>{'<br>'.join(others)}</figcaption></figure>"
    )


def grid(kind: str, figures: Iterable[str]) -> str:
    return f'<div class="{kind}">{"".join(figures)}</div>'


def _row(cell: str, texts: Sequence[str], *, is_marked: bool) -> str:
    cells = "".join(f"<{cell}>{html.escape(text)}</{cell}>" for text in texts)
    kind = ' class="mark"' if is_marked else ""
    return f"<tr{kind}>{cells}</tr>"


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
