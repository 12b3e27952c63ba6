"""Records made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secondglance_eval.asking.records import Record, StageCost, TokenUncertainty
from secondglance_protocol.wire import PixelBox

MakeRecord = Callable[..., Record]


@pytest.fixture
def make_record() -> MakeRecord:
    """A record of always-retransmit: unsure and wrong at first, right after; 3,000 + 7,000 bytes up."""

    def make(example_id: str, method: str = "always", *, nats: float = 1.0, **changes: object) -> Record:
        values: dict[str, object] = {
            "example_id": example_id,
            "method": method,
            "answer": "K7",
            "score": 1.0,
            "stage": 2,
            "asked_again": True,
            "draft_answer": "K1",
            "draft_score": 0.0,
            "tokens": (TokenUncertainty(min_entropy=nats, shannon=2 * nats, margin=min(1.0, nats / 4)),),
            "roi": PixelBox(left=1, top=2, right=30, bottom=40),
            "first": StageCost(uplink_bytes=3000, downlink_bytes=900, elapsed_ms=41.5),
            "second": StageCost(uplink_bytes=7000, downlink_bytes=800, elapsed_ms=80.0),
            "original_bytes": 1_000_000,
            "image_id": example_id.partition("/")[0],
            "question": "What is written on the red sign?",
            "answers": ("K7",),
            "kind": "read",
            "width": 4000,
            "height": 3000,
            "box": PixelBox(left=5, top=5, right=25, bottom=25),
            "offer_bytes": 300,
        }
        return Record.model_validate(values | changes)

    return make
