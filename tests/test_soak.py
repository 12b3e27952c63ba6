"""Mixed requests leave nothing behind: the short version of `make soak`, and that it can fail."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.soak import Run, Sample, environment, growth, left_over, soak
from secondglance_server.testing import serving

pytestmark = pytest.mark.live

TTL_S = 2.0


def test_mixed_requests_get_allowed_replies_and_leave_nothing_behind() -> None:
    with serving(environment={**environment(TTL_S), "OMP_NUM_THREADS": "1"}) as url:
        run = Run(url, TTL_S, wanted=80)
        samples = asyncio.run(soak(run, 4))
        assert run.wrong == []
        assert {what.split()[0] for what in run.outcomes} >= {
            "first",
            "follow-up",
            "delete",
            "broken",
            "patch",
        }
        assert max(s.sessions for s in samples) > 0
        assert left_over(url, TTL_S) == {}
        assert samples[-1].open_files <= samples[1].open_files + 8  # connections come and go
    assert growth(samples) < 0.25  # caches still fill


def samples_of(*rss_mb: float) -> list[Sample]:
    return [Sample(i, rss, 10, 3, 1) for i, rss in enumerate(rss_mb)]


def test_a_leak_is_growth_and_a_filled_cache_is_not() -> None:
    assert growth(samples_of(100, 150, 200, 200, 200, 200, 200, 200)) == pytest.approx(0)
    assert growth(samples_of(*range(100, 180, 10))) == pytest.approx(165 / 125 - 1)


async def test_a_reply_that_is_not_allowed_is_noted() -> None:
    run = Run("http://nowhere", TTL_S, wanted=1)
    run.note("first", 500, [200])
    run.note("first", 200, [200])
    assert run.wrong == ["first: 500"]
    assert run.sent == 2


def test_what_is_left_over_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def metrics(_: str) -> dict[str, float]:
        empty = dict.fromkeys(
            (
                "secondglance_session_bytes",
                "secondglance_stored_images",
                "secondglance_stored_image_bytes",
                "secondglance_idempotent_replies",
                "secondglance_queue_depth",
            ),
            0.0,
        )
        return {**empty, "secondglance_sessions": 2.0, "secondglance_requests_in_flight": 1.0}

    monkeypatch.setattr("benchmarks.soak.server_metrics", metrics)
    assert left_over("http://nowhere", 0.0, patience_s=0.0) == {"sessions": 2.0}
