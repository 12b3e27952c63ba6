"""What `benchmarks.rounds` makes of conversations: each number of looks is the conversation up to there."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from benchmarks.rounds import Asked, asked, summarize
from secondglance.reply import Look, Receipt, Reply, StageReceipt
from secondglance_protocol.geometry import roi_of
from secondglance_protocol.wire import ImageSize, PixelBox
from tests.server.exchange import REPLY

ROI = roi_of(PixelBox(left=0, top=0, right=1, bottom=1), ImageSize(width=2, height=2))


def stage(uplink_bytes: int) -> StageReceipt:
    return StageReceipt(uplink_bytes=uplink_bytes, requests=1)


def reply(draft: str, *looks: str) -> Reply:
    """A conversation whose stages sent 1000, 100, 101, 102 ... bytes."""
    told = tuple(Look(ROI, REPLY.model_copy(update={"answer": answer})) for answer in looks)
    sent = [stage(100 + number) for number in range(len(looks))]
    receipt = Receipt(stage(0), stage(1000), sent[0] if sent else None, None, tuple(sent[1:]))
    first = REPLY.model_copy(update={"answer": draft})
    return Reply(first, told[-1].reply if told else None, receipt, looks=told)


def test_fewer_looks_are_the_same_conversation_up_to_there() -> None:
    row = asked(reply("a", "b", "c", "d"), "c", 1)
    assert row.right == (False, False, True, False, False)
    assert row.uplink_bytes == (1000, 1100, 1201, 1303, 1303)
    assert (row.is_doubtful, row.n_looks) == (True, 3)
    sure = asked(reply("a"), "a", 1)
    assert sure.right == (True,) * 5
    assert sure.uplink_bytes == (1000,) * 5
    assert not sure.is_doubtful


def test_gain_and_ratio_are_of_the_doubtful_questions() -> None:
    rows = [
        asked(reply("x"), "x", 1),
        asked(reply("x", "y", "z"), "z", 1),
        asked(reply("x", "y"), "y", 2),
    ]
    figures = summarize(rows)
    assert (figures["questions"], figures["doubtful"], figures["stage1_right"]) == (3, 2, 33.3)
    one, two = figures["by_max_rounds"]["1"], figures["by_max_rounds"]["2"]
    assert (one["right"], one["gain"], one["bytes_ratio"]) == (66.7, 0.0, 1.0)
    assert (two["right"], two["doubtful_right"], two["gain"]) == (100.0, 100.0, 50.0)
    assert two["bytes_ratio"] == pytest.approx((1201 + 1100) / 2200, abs=1e-3)
    assert (one["all_gain"], one["all_bytes_ratio"]) == (0.0, 1.0)
    assert two["all_gain"] == pytest.approx(100 / 3, abs=0.01)
    assert two["all_bytes_ratio"] == pytest.approx((1000 + 1201 + 1100) / 3200, abs=1e-4)


def test_rows_that_were_kept_give_the_same_figures() -> None:
    rows = [asked(reply("x"), "x", 1), asked(reply("x", "y", "z"), "z", 2)]
    kept = [Asked(**json.loads(json.dumps(asdict(row)))) for row in rows]
    assert summarize(kept) == summarize(rows)
