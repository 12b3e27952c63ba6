"""Colours of the plots, for light and dark pages; methods differ also for colour-blind eyes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: no window, no display

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"


@dataclass(frozen=True, slots=True)
class Theme:
    """`suffix` goes into file names."""

    suffix: str
    paper: str
    ink: str
    grid: str
    faint: str


LIGHT = Theme("", "#ffffff", "#1c2024", "#dfe3e7", "#8a9099")
DARK = Theme("-dark", "#16191d", "#e6e8ea", "#333940", "#8a9099")
THEMES = (LIGHT, DARK)


@contextmanager
def drawing(theme: Theme, *, width: float = 5.0, height: float = 4.6) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure, in inches, and its axes in the theme's colours; text is large, as phones shrink it."""
    style: Any = {
        "figure.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "text.color": theme.ink,
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "grid.color": theme.grid,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 11,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "savefig.dpi": 160,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield figure, axes
        finally:
            plt.close(figure)
