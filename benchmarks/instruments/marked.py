"""Measured tables in pages: a benchmark writes what lies between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import pathlib


def put_between(page: pathlib.Path, name: str, text: str) -> None:
    """Replace what is between the marks. Raises ValueError for a page that lacks one."""
    before, opening, rest = page.read_text().partition(f"<!-- {name} -->")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    if not (opening and closing):
        raise ValueError(f"{page} has no marks <!-- {name} --> and <!-- /{name} -->")
    page.write_text(f"{before}{opening}\n{text}\n{closing}{after}")
