"""What the cells of the dense grid are said to show."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from secondglance_server.engine.reader.slots import content_of
from secondglance_server.engine.reader.tower import COARSE, FINE, ReaderTower, ReaderTowerConfig
from training.reader.drawing.views import text_labels
from training.reader.records import THUMB_PX, TrueLine, TrueSign, View

PLACE = st.floats(-0.5, 1.5)
SIZES = st.sampled_from([(448, 448), (448, 300), (200, 448)])


def shown(size: tuple[int, int], color: str | None, *boxes: tuple[float, float, float, float]) -> View:
    lines = tuple(TrueLine("NO", "words", box) for box in boxes)
    return View(size, b"", (), (TrueSign(color, boxes[0], 1.0, lines),), None)


@given(
    size=SIZES, color=st.sampled_from([None, "red"]), x=PLACE, y=PLACE, width=st.floats(0.02, 1),
    height=st.floats(0.02, 0.5),
)  # fmt: skip
def test_cells_in_a_line_show_text_and_cells_beside_it_do_not(
    size: tuple[int, int], color: str | None, x: float, y: float, width: float, height: float
) -> None:
    """Generated: lines of all sizes, also beyond the view, with a panel and without."""
    cells = text_labels(shown(size, color, (x, y, x + width, y + height)))
    left, top, right, bottom = content_of(*size)
    x0, x1 = (left + edge * (right - left) for edge in (x, x + width))
    y0, y1 = (top + edge * (bottom - top) for edge in (y, y + height))
    edges = np.arange(COARSE + 1) / COARSE
    touches_x = (edges[1:] > x0) & (edges[:-1] < x1)
    touches_y = (edges[1:] > y0) & (edges[:-1] < y1)
    within_x = (edges[:-1] >= x0) & (edges[1:] <= x1)
    within_y = (edges[:-1] >= y0) & (edges[1:] <= y1)
    assert not cells[~(touches_y[:, None] & touches_x[None])].any()
    assert cells[within_y[:, None] & within_x[None]].all()
    center = (x0 + x1) / 2, (y0 + y1) / 2
    if all(0 <= c < 1 for c in center):
        assert cells.any()


def test_text_that_nobody_can_see_is_not_looked_for() -> None:
    assert not text_labels(shown((448, 448), "red", (0.2, 0.5, 0.4, 0.5 + 2 / 448))).any()
    assert text_labels(shown((448, 448), "red", (0.2, 0.5, 0.4, 0.5 + 3 / 448))).any()


def test_the_dense_grid_sees_every_pixel_of_its_view() -> None:
    """A pattern of single pixels is not the grey that a smaller copy would make of it."""
    config = ReaderTowerConfig()
    assert config.image_size == THUMB_PX
    torch.manual_seed(0)
    tower = ReaderTower(config).eval()
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(THUMB_PX // 2, THUMB_PX // 2)
    grey = torch.zeros(1, 3, THUMB_PX, THUMB_PX)
    with torch.no_grad():
        plain, checked = tower.see(grey), tower.see(grey + checks)
    assert plain.colors.shape[-2:] == (FINE, FINE)
    assert torch.allclose(plain.fine, checked.fine, atol=1e-5)  # of half the size
    assert not torch.allclose(plain.joined, checked.joined, atol=1e-3)
    assert not torch.allclose(plain.colors.log(), checked.colors.log(), atol=1e-3)  # as logits differ
