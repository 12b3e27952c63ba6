"""File names of any bytes as people and logs may see them."""

from __future__ import annotations

import os


def shown_path(path: str) -> str:
    r"""Return a file's name as text; bytes that are no UTF-8 become \xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")
