"""Tables in Markdown: the project's only writer of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    are_numbers: bool = False,
    marked: int | None = None,
) -> str:
    """Return the table without a final line break.

    `are_numbers` aligns every column but the first to the right. `marked` is the number of the row, from 0,
    whose cells are set in bold. A bar in a cell is escaped; a line break becomes a space.
    """
    rules = ["---"] * len(columns)
    if are_numbers:
        rules[1:] = ["---:"] * (len(columns) - 1)
    lines = [_line(columns), _line(rules)]
    for number, row in enumerate(rows):
        cells = [" ".join(cell.splitlines()).replace("|", r"\|") for cell in row]
        lines.append(_line([f"**{cell}**" if number == marked and cell else cell for cell in cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
