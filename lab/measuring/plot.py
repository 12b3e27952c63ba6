"""The plot of a campaign: uplink bytes of each method layer by layer, and times against the model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.measuring.cell_figures import CellFigures
from lab.relay.links import WIRE

_LAYERS = (("body", "body"), ("http", "HTTP"), ("wire", "interface"), ("outside", "outside"))


def draw(rows: Sequence[CellFigures], target: Path) -> None:
    """Write the plot to `target` as PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    _draw_layers(left, [row for row in rows if row.link == WIRE.name])
    _draw_times(right, [row for row in rows if row.link != WIRE.name])
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def _draw_layers(axes: Any, rows: Sequence[CellFigures]) -> None:
    for number, (field, label) in enumerate(_LAYERS):
        places = [index + 0.2 * (number - 1.5) for index in range(len(rows))]
        bars = axes.bar(places, [getattr(row, field) for row in rows], 0.19, label=label)
        if field == "wire":
            axes.bar_label(bars, [f"+{row.overhead:.0%}" for row in rows], fontsize=7)
    axes.set_xticks(range(len(rows)), [f"{row.method}\n{row.warmth}" for row in rows], fontsize=7)
    axes.set_yscale("log")
    axes.set_ylabel("mean uplink bytes of an answer")
    axes.set_title("Four layers (interface: what frames add to HTTP)", fontsize=9)
    axes.legend(fontsize=7)


def _draw_times(axes: Any, rows: Sequence[CellFigures]) -> None:
    for link in dict.fromkeys(row.link for row in rows):
        mine = [row for row in rows if row.link == link]
        axes.scatter([row.predicted_p50_s for row in mine], [row.p50_s for row in mine], s=18, label=link)
    longest = max(row.p50_s for row in rows)
    shortest = min(row.p50_s for row in rows)
    axes.plot([shortest, longest], [shortest, longest], linewidth=0.8, color="gray")
    axes.set(xscale="log", yscale="log", xlabel="model: bytes / rate + round trips + computing, s")
    axes.set_ylabel("measured median, s")
    axes.set_title("Time to answer", fontsize=9)
    axes.legend(fontsize=7)
