"""Writes the conversation vectors anew: `python -m tests.vectors.make`. Look at what changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.vectors.playing import body_of, play
from tests.vectors.scenarios import GROUPS

FOLDER = Path(__file__).parent


def vectors(group: str) -> dict[str, list[Any]]:
    """Return a group's scenarios with the steps that the Python edge takes and how they end.

    Exchanges are kept once; a scenario names them by number.
    """
    exchanges: list[dict[str, Any]] = []
    made = []
    for scenario in GROUPS[group]():
        steps, ends = play(scenario)
        for exchange in scenario["exchanges"]:
            if _sized(exchange) not in exchanges:
                exchanges.append(_sized(exchange))
        numbers = [exchanges.index(_sized(exchange)) for exchange in scenario["exchanges"]]
        made.append({**scenario, "exchanges": numbers, "steps": steps, "ends": ends})
    return {"exchanges": exchanges, "vectors": made}


def _sized(exchange: dict[str, Any]) -> dict[str, Any]:
    """Return an exchange with the bytes of its body: every language writes JSON in its own way."""
    return {**exchange, "bytes": len(body_of(exchange))}


def written(group: str) -> str:
    """Return the text of a group's file: an exchange or a vector on each line."""
    parts = {name: ",\n".join(json.dumps(each) for each in values) for name, values in vectors(group).items()}
    return "{\n" + ",\n".join(f'"{name}": [\n{lines}\n]' for name, lines in parts.items()) + "\n}\n"


def main() -> None:
    for group in GROUPS:
        (FOLDER / f"{group}.json").write_text(written(group))


if __name__ == "__main__":
    main()
