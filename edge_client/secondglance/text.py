"""How text and numbers are shown to people: one rule for what may reach a terminal, one for bytes.

Answers, problem titles, request ids and file names come from elsewhere. A terminal obeys escape sequences in
them, and text directions and invisible characters make them read as something else.
"""

from __future__ import annotations

import os
import unicodedata
from typing import Final

NOT_SURE: Final = "(not sure)"  # said of every answer that should not be relied on

# Controls (ESC, C1), invisible formatting (bidi), lone surrogates, line and paragraph separators.
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # Persian words and family emoji are not themselves without these


def shown_path(path: str) -> str:
    r"""Return a file's name as text; bytes that are no UTF-8 become \xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")


def printable(text: str, *, keep_lines: bool = False, max_chars: int | None = None) -> str:
    r"""Return `text` safe for terminals: what is unprintable becomes an escape such as `\x1b` or `\u202e`.

    `keep_lines` leaves line feeds and tabs alone. Text longer than `max_chars` is cut and ends in `...`.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if max_chars is not None and len(text) > max_chars:
        text = text[:max_chars] + "..."
    kept = _JOINERS + "\n\t" if keep_lines else _JOINERS
    return "".join(
        _escaped(each) if unicodedata.category(each) in _UNSAFE and each not in kept else each
        for each in text
    )


def readable_bytes(count: int) -> str:
    """Return `count` in decimal units, as networks are billed: 950 B, 14.2 kB, 3.41 MB."""
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.2f} MB"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
