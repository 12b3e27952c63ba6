"""I3: a model's own geometry cannot break its reply: the relevance map of any content fits the contract."""

from __future__ import annotations

import numpy as np
import pytest

from secondglance_server.engine.protocol import AttentionMap
from secondglance_server.inference.replies import _relevance_report

CONTENTS = [
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 0.0, 384 / 378, 384 / 378),  # patches of 14 do not fill a side of 384
    (-0.008, 0.2, 1.008, 0.8),
    (0.0, 0.0, 1.0 + 1e-12, 1.0 + 1e-12),
    (0.25, -0.5, 0.75, 1.5),
]


@pytest.mark.parametrize("content", CONTENTS)
def test_i3_a_picture_that_reaches_beyond_the_grid_is_reported_where_it_lies(
    content: tuple[float, float, float, float],
) -> None:
    """I3: content of 1.016 gave HTTP 500. The cell of the peak keeps its place in the picture, exactly."""
    weights = np.zeros((27, 27), np.float32)
    weights[20, 5] = 1.0
    report = _relevance_report(AttentionMap(weights, content))
    reported = np.array(report.weights)
    row, col = np.unravel_index(int(reported.argmax()), reported.shape)
    x0, y0, x1, y1 = content
    box = report.content
    u, v = col / reported.shape[1], row / reported.shape[0]
    assert (u - box.x0) / (box.x1 - box.x0) == pytest.approx((5 / 27 - x0) / (x1 - x0), abs=1e-9)
    assert (v - box.y0) / (box.y1 - box.y0) == pytest.approx((20 / 27 - y0) / (y1 - y0), abs=1e-9)
    assert reported.sum() == 1.0
