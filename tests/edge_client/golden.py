"""Golden files: what users and their scripts rely on, written down so that a change of it shows in review.

`tests/edge_client/golden/` holds one help text, one JSON shape and one table of exit codes for each command.
`make golden` writes them anew from what the code does now; look at the difference before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"
UPDATE = "UPDATE_GOLDEN"


def check_text(name: str, text: str) -> None:
    """`text` says what the golden file says; where its lines are broken is the terminal's business."""
    _check(name, text, lambda golden: golden.split() == text.split())


def check_json(name: str, value: Any) -> None:
    """`value` equals the golden file's, key by key."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    _check(name, text, lambda golden: json.loads(golden) == value)


def check_entry(name: str, key: str, value: Any) -> None:
    """One entry of a golden table."""
    path = FOLDER / name
    table = json.loads(path.read_text()) if path.exists() else {}
    if os.environ.get(UPDATE):
        check_json(name, table | {key: value})
        return
    assert key in table, f"{key!r} is not in {name}; `make golden` adds it"
    assert table[key] == value, f"{name} says {table[key]!r} of {key!r}; `make golden` if this is intended"


def shape_of(value: Any) -> Any:
    """The value with its leaves replaced by their types; a list by the shape of its first element."""
    if isinstance(value, dict):
        return {key: shape_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return "null" if value is None else type(value).__name__


def _check(name: str, text: str, is_same: Any) -> None:
    path = FOLDER / name
    if os.environ.get(UPDATE):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (path.exists() and is_same(path.read_text())):
            path.write_text(text)
        return
    assert path.exists(), f"there is no {name}; `make golden` writes it"
    assert is_same(path.read_text()), f"{name} has changed to:\n{text}\n`make golden` if this is intended"
