"""The uplink as it is learnt, the rung that it deserves, and a second stage that would come too late."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from edge_client import AsyncEdgeClient, EdgeClient, EdgeSettings, Hooks, TimedOutError
from edge_client.ladder import LADDER, Rung, choose, smallest
from edge_client.link import Link
from edge_client.recipes import Recipes
from edge_client.report import SentPictures
from lab.faults import Delay, RateLimit, Schedule
from lab.relay import relaying
from server.engine.fake import FakeEngine
from shared.wire import PixelBox

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "ladder.json"
SLOW, FAST = 32_000, 10_000_000  # bytes a second: 256 kbit/s, 80 Mbit/s


def learnt(bytes_per_s: float, *, round_trip_s: float = 0.05) -> Link:
    link = Link()
    link.add(300, round_trip_s, 0.0)
    link.add(20_000, round_trip_s + 20_000 / bytes_per_s + 0.3, 0.3)
    return link


def test_round_trip_and_rate_are_told_apart_and_the_servers_time_is_left_out() -> None:
    link = learnt(SLOW)
    assert link.round_trip_s == pytest.approx(0.05)
    assert link.uplink_bytes_per_s == pytest.approx(SLOW)
    assert link.seconds_for(6400) == pytest.approx(0.05 + 0.2)


def test_nothing_is_known_before_anything_was_uploaded() -> None:
    link = Link()
    assert (link.round_trip_s, link.uplink_bytes_per_s, link.seconds_for(1)) == (None, None, None)
    link.add(300, 0.05, 0.0)
    assert link.uplink_bytes_per_s is None


def test_a_link_that_changes_is_followed_both_ways() -> None:
    link = learnt(FAST)
    for rate, round_trip_s in ((SLOW, 0.3), (FAST, 0.02)):
        for _ in range(12):
            link.add(300, round_trip_s, 0.0)
            link.add(20_000, round_trip_s + 20_000 / rate, 0.0)
        assert link.uplink_bytes_per_s == pytest.approx(rate, rel=0.1)
        assert link.round_trip_s == pytest.approx(round_trip_s, rel=0.01)


def test_clocks_that_disagree_never_make_a_rate_negative_or_endless() -> None:
    link = Link()
    link.add(20_000, 0.1, 0.5)
    assert 0 < (link.uplink_bytes_per_s or 0) < 1e9


def test_a_slow_link_gets_fewer_bytes_and_a_fast_one_the_fewest_mistakes() -> None:
    for stage in ("stage1", "stage2"):
        slow, fast = (choose(LADDER, stage, rate, point_worth_s=0.1) for rate in (SLOW / 8, FAST))
        assert fast == LADDER[0], "the settings that nobody has measured to lose anything"
        assert slow.image_bytes < fast.image_bytes
        assert slow.patch_bytes < fast.patch_bytes
    assert smallest(LADDER).patch_bytes <= choose(LADDER, "stage2", 100, point_worth_s=0.1).patch_bytes


def test_every_rung_is_within_a_point_of_the_best() -> None:
    assert all(rung.points_lost <= 1 for rung in LADDER)


def test_the_figures_in_the_code_are_the_measured_ones() -> None:
    """benchmarks/results/ladder.json, written by `python -m benchmarks.ladder`."""
    measured = json.loads(RESULTS.read_text())["rungs"]

    def name(rung: Rung) -> str:
        scale = "" if rung.image_scale == 1 else " at 3/4"
        return f"{rung.image.format} {rung.image.quality}/{rung.patch.quality}{scale}"

    figures = ("image_bytes", "patch_bytes", "points_lost", "standard_error")
    told = {name(rung): {figure: getattr(rung, figure) for figure in figures} for rung in LADDER}
    kept = {name: {figure: row[figure] for figure in figures} for name, row in measured.items()}
    assert told == {name: row for name, row in kept.items() if row["points_lost"] <= 1}


def test_the_first_rung_is_what_is_fixed() -> None:
    settings = EdgeSettings()
    assert (LADDER[0].image, LADDER[0].patch) == (settings.image_recipe, settings.patch_recipe)
    assert LADDER[0].points_at_risk == 0


def test_a_gain_counts_as_none_and_what_was_measured_coarsely_as_a_risk() -> None:
    rung = replace(LADDER[0], points_lost=-2.0, standard_error=1.5)
    assert rung.points_at_risk == 1.5
    assert replace(rung, points_lost=0.5).points_at_risk == 2.0


@pytest.mark.parametrize("name", ["format", "image_quality", "patch_subsampling", "link_aware"])
def test_what_the_user_has_said_is_not_second_guessed(name: str) -> None:
    value: Any = {"format": "png", "image_quality": 40, "patch_subsampling": "4:2:0", "link_aware": False}[
        name
    ]
    settings = EdgeSettings(**{name: value})
    recipes = Recipes(settings, learnt(SLOW))
    assert recipes.for_image() == (settings.image_recipe, settings.image_scale)
    assert list(recipes.for_patch()) == [settings.patch_recipe]


def test_an_unknown_link_gets_the_fixed_settings() -> None:
    settings = EdgeSettings()
    recipes = Recipes(settings, Link())
    assert recipes.for_image() == (settings.image_recipe, 1.0)
    assert list(recipes.for_patch()) == [settings.patch_recipe]


@pytest.fixture(autouse=True)
def aware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECONDGLANCE_EDGE_LINK_AWARE", raising=False)


@pytest.fixture(scope="module")
def live(serve: Any) -> Any:
    return serve(FakeEngine())


@pytest.fixture(scope="module")
def photos(pictures: Any) -> list[bytes]:
    """Smooth but for their middle, where the engine looks: small copies are small and patches large."""

    def photo(seed: int) -> bytes:
        image = Image.linear_gradient("L").resize((2000, 1500)).convert("RGB")
        image.paste(pictures.noise((700, 700), seed=seed), (650, 400))
        return pictures.encode(image, "JPEG", quality=90)

    return [photo(seed) for seed in range(3)]


def limited(port: int, bytes_per_s: float) -> Any:
    return relaying("127.0.0.1", port, schedule=Schedule(each=(RateLimit(bytes_per_s), Delay(0.02))))


def test_a_client_learns_the_rate_of_a_real_link_and_adapts(live: Any, photos: list[bytes]) -> None:
    """Through a relay of 256 kbit/s: never taken for twice as fast; in a hurry, later ones are smaller."""
    sent = SentPictures()
    hooks, hasty = Hooks(on_request=sent.note), EdgeSettings(point_worth_s=0)
    with limited(live.port, SLOW) as relay, EdgeClient(relay.url, settings=hasty, hooks=hooks) as client:
        client.ask(photos[0], "What?")
        rate = client.link.uplink_bytes_per_s
        client.ask(photos[1], "What?", mode="answer_only")
    assert rate is not None
    assert 0 < rate < 2 * SLOW
    formats = [(picture.stage, picture.name) for picture in sent.pictures]
    assert formats == [("stage1", "image.webp"), ("stage2", "patch.webp"), ("stage1", "image.webp")]
    least, fixed = smallest(LADDER), EdgeSettings()
    assert hasty.may_adapt
    assert (least.image.quality, least.patch.quality) < (fixed.image_quality, fixed.patch_quality)
    assert len(sent.pictures[2].data) < len(sent.pictures[0].data), (
        "the second picture is as rich as the first"
    )


async def test_the_async_client_learns_too(live: Any, photos: list[bytes]) -> None:
    with limited(live.port, SLOW) as relay:
        async with AsyncEdgeClient(relay.url) as client:
            await client.ask(photos[0], "What?", mode="answer_only")
            assert client.link.uplink_bytes_per_s is not None
            assert 0 < client.link.uplink_bytes_per_s < 2 * SLOW


def slow_client(settings: Any, server: Any) -> EdgeClient:
    """It believes that its link carries 2 kB/s; its transport times nothing, so it goes on believing it."""
    client = EdgeClient(settings=settings, transport=httpx.MockTransport(server))
    client.link.add(300, 0.05, 0.0)
    client.link.add(20_000, 10.05, 0.0)
    return client


@pytest.fixture
def adaptive(settings: Any) -> EdgeSettings:
    return EdgeSettings(url=settings.url)


def test_a_second_stage_that_would_come_too_late_is_declined_unsent(
    adaptive: Any, server: Any, photos: list[bytes]
) -> None:
    """The region is noise of 400x400 pixels: more than 8 kB at any rung, 4 s on this link."""
    server.pixels = PixelBox(left=700, top=500, right=1100, bottom=900)
    with slow_client(adaptive, server) as client:
        reply = client.ask(photos[0], "And?", timeout_s=3)
        assert (reply.answer, reply.stage) == ("draft", 1)
        assert reply.degraded is not None
        assert reply.degraded.startswith("declined: ")
        assert reply.receipt.stage2 is not None
        assert reply.receipt.stage2.requests == 0
        with pytest.raises(TimedOutError, match="declined"):
            client.ask(photos[0], "And?", timeout_s=3, strict=True)
    assert not server.requests["patch"]


def test_a_second_stage_in_time_or_without_a_deadline_is_taken(
    adaptive: Any, server: Any, photos: list[bytes]
) -> None:
    server.pixels = PixelBox(left=700, top=500, right=1100, bottom=900)
    with slow_client(adaptive, server) as client:
        assert client.ask(photos[0], "And?").stage == 2
        assert client.ask(photos[0], "And?", timeout_s=500).stage == 2


def test_a_patch_that_would_be_late_is_made_smaller_before_it_is_declined(
    settings: Any, server: Any, photos: list[bytes]
) -> None:
    """To this edge accuracy is worth everything, so it starts at the best rung; the smallest is in time."""
    server.pixels = PixelBox(left=700, top=500, right=1100, bottom=900)
    careful = EdgeSettings(url=settings.url, point_worth_s=1e6)
    with slow_client(careful, server) as client:
        client.ask(photos[0], "What?")
        best = len(server.requests["patch"][-1].content)
        client.ask(photos[1], "What?", timeout_s=0.9 * best / 2000)
    assert len(server.requests["patch"][-1].content) < 0.9 * best
