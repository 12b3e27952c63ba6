"""A campaign's report: two tables in Markdown and a plot that reconciles the layers."""

from __future__ import annotations

import json
from pathlib import Path

from lab.measuring.campaign import CampaignRecord
from lab.measuring.cell_figures import CellFigures, is_promise_kept, large_overheads, rows
from lab.relay.links import WIRE
from secondglance_eval.markdown import markdown_table


def publish(record: CampaignRecord, folder: Path, name: str) -> int:
    """Write record, tables and plot, print the tables; return 1 if the promise is broken, else 0."""
    from lab.measuring.plot import draw  # matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record))
    overheads = large_overheads(record)
    kept = is_promise_kept(record)
    spread = f"{min(overheads):.2%} to {max(overheads):.2%}" if overheads else "none sent"
    text = "\n\n".join(
        (
            f"## {record['place'].capitalize()}",
            _conditions(record),
            layers_table(rows(record)),
            times_table(rows(record)),
            f"Frames add to the client's count, in {len(overheads)} answers over 100 kB: {spread}"
            f" ({'as' if kept else 'NOT as'} promised).",
        )
    )
    (folder / f"{name}.md").write_text(text + "\n")
    draw(rows(record), folder / f"{name}.png")
    print(text)
    print(json.dumps({"place": record["place"], "overheads": [round(o, 5) for o in overheads], "kept": kept}))
    return 0 if kept else 1


def layers_table(table: list[CellFigures]) -> str:
    """Return each method's uplink bytes on the unshaped wire; on other links they differ by chance only."""
    columns = (
        "method, connection, answers, body, HTTP, interface, outside, frames add, HTTP down, interface down"
    )
    lines = []
    for row in table:
        if row.link == WIRE.name:
            layers = (row.body, row.http, row.wire, row.outside)
            cells = [row.method, row.warmth, str(row.answers), *(f"{layer:,.0f}" for layer in layers)]
            lines.append([*cells, f"{row.overhead:.1%}", f"{row.http_down:,.0f}", f"{row.wire_down:,.0f}"])
    return markdown_table(columns.split(", "), lines)


def times_table(table: list[CellFigures]) -> str:
    """Return what each cell sent and how long its answers took, beside the model's time."""
    columns = (
        "link, method, connection, answers, HTTP up, interface up, p50, p95, model p50, measured / model"
    )
    lines = []
    for row in table:
        cells = [row.link, row.method, row.warmth, str(row.answers), f"{row.http:,.0f}", f"{row.wire:,.0f}"]
        cells += [_seconds(time) for time in (row.p50_s, row.p95_s, row.predicted_p50_s)]
        lines.append([*cells, "" if row.link == WIRE.name else f"{row.p50_s / row.predicted_p50_s:.2f}"])
    return markdown_table(columns.split(", "), lines)


def _conditions(record: CampaignRecord) -> str:
    idle, offload = record["idle"], [name for name, on in record["offload"].items() if on]
    return (
        f"Idle traffic subtracted: {idle['tx_bytes_per_s']:.1f} B/s up, {idle['rx_bytes_per_s']:.1f} down."
        f" Segmentation offload: {', '.join(offload) + ' ON' if offload else 'off'}."
        f" Outside: {record['outside']}."
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:,.0f} ms"
