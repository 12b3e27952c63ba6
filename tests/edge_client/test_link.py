"""The uplink as it is learnt, the encoding that it deserves, and a second stage that would come too late."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image

from lab.relay.faults import Delay, RateLimit, Schedule
from lab.relay.relay import relaying
from secondglance import AsyncEdgeClient, EdgeClient, EdgeSettings, Hooks, TimedOutError
from secondglance.link.encoding_choice import EncodingChoice
from secondglance.link.measured_encodings import IMAGES, PATCHES, choose, measured_from, smallest
from secondglance.link.uplink import Uplink
from secondglance.pictures.encoding import Recipe
from secondglance.show.report import SentPictures
from secondglance_protocol.wire import EncodingRecipe, PixelBox, Recipes
from secondglance_server.engine.fake import FakeEngine

SLOW, FAST = 32_000, 10_000_000  # bytes a second: 256 kbit/s, 80 Mbit/s

IMAGE = EncodingRecipe(format="jpeg", quality=20, scale=0.5)
PATCH = EncodingRecipe(format="webp", quality=50, scale=0.7)


def learnt(bytes_per_s: float, *, round_trip_s: float = 0.05) -> Uplink:
    link = Uplink()
    link.add(300, round_trip_s, 0.0)
    link.add(20_000, round_trip_s + 20_000 / bytes_per_s + 0.3, 0.3)
    return link


def test_round_trip_and_rate_are_told_apart_and_the_servers_time_is_left_out() -> None:
    link = learnt(SLOW)
    assert link.round_trip_s == pytest.approx(0.05, abs=0.01)  # the small request has 300 bytes, too
    assert link.uplink_bytes_per_s == pytest.approx(SLOW, rel=0.02)
    assert link.seconds_for(6400) == pytest.approx(0.05 + 0.2, rel=0.05)


def test_nothing_is_known_before_anything_was_uploaded() -> None:
    link = Uplink()
    assert (link.round_trip_s, link.uplink_bytes_per_s, link.seconds_for(1)) == (None, None, None)
    link.add(300, 0.05, 0.0)
    assert (link.round_trip_s, link.uplink_bytes_per_s) == (0.05, None)


def test_a_link_that_changes_is_followed_both_ways() -> None:
    link = learnt(FAST)
    for rate, round_trip_s in ((SLOW, 0.3), (FAST, 0.02)):
        for _ in range(12):
            link.add(300, round_trip_s, 0.0)
            link.add(20_000, round_trip_s + 20_000 / rate, 0.0)
        assert link.uplink_bytes_per_s == pytest.approx(rate, rel=0.1)
        assert link.round_trip_s == pytest.approx(round_trip_s, rel=0.05)


def test_clocks_that_disagree_never_make_a_rate_negative_or_endless() -> None:
    link = Uplink()
    link.add(20_000, 0.1, 0.5)
    assert 0 < (link.uplink_bytes_per_s or 0) < 1e9
    link.add(3_000, 0.4, 0.0)
    assert 0 < (link.uplink_bytes_per_s or 0) < 1e9, "the larger one was sooner there"


def conversations(link: Uplink, bytes_per_s: float, draw: random.Random, count: int = 6) -> None:
    """What an edge sends on a link of 60 ms to a server that states less time than it takes.

    The first request, of a connection just opened, waits another round trip and for a server still busy.
    """

    def send(uplink_bytes: int, more_s: float = 0.0) -> None:
        server_s, unstated_s = draw.uniform(0.02, 0.2), draw.expovariate(1 / 0.004)
        on_the_way_s = 0.06 + uplink_bytes / bytes_per_s
        link.add(uplink_bytes, on_the_way_s + server_s + unstated_s + more_s, server_s)

    link.add(220, 0.06 + 220 / bytes_per_s + 0.06 + 0.1, None)
    for number in range(count):
        send(draw.randint(2500, 4500), more_s=0.5 * (number == 2))  # and one reply is late
        send(draw.randint(1800, 7000))


@pytest.mark.parametrize("kbit", [64, 256, 1000])
def test_the_rate_is_right_after_a_few_questions_whatever_the_first_request_waited_for(kbit: int) -> None:
    """The round trip was once the first request's own: at 256 kbit/s the rate came out at 75 kB/s, not 32."""
    rates = []
    for seed in range(40):
        link = Uplink()
        conversations(link, kbit * 125, random.Random(seed))
        rates.append((link.uplink_bytes_per_s or 0) / (kbit * 125))
    assert statistics.median(rates) == pytest.approx(1, rel=0.15)
    assert sum(0.75 < rate < 1.25 for rate in rates) >= (36 if kbit < 1000 else 24)


def test_a_slow_link_gets_fewer_bytes_and_a_fast_one_the_fewest_mistakes() -> None:
    for encodings in (IMAGES, PATCHES):
        slow, fast = (choose(encodings, rate, point_worth_s=0.1) for rate in (SLOW / 32, FAST))
        assert fast == encodings[0], "the settings that nobody has measured to lose anything"
        assert slow.mean_bytes < fast.mean_bytes
        assert smallest(encodings).mean_bytes <= choose(encodings, 100, point_worth_s=0.1).mean_bytes


def test_a_picture_that_brings_more_second_glances_pays_for_them() -> None:
    dear = replace(IMAGES[0], mean_bytes=IMAGES[0].mean_bytes - 100, second_glances=0.9)
    encodings = (replace(IMAGES[0], second_glances=0.3), dear)
    assert choose(encodings, SLOW, point_worth_s=0.1, second_glance_s=0.0) == dear
    assert choose(encodings, SLOW, point_worth_s=0.1, second_glance_s=0.1) == encodings[0]


def test_what_loses_more_than_a_point_is_no_rung_however_small() -> None:
    kept = {"format": "webp", "quality": 50, "bytes": 900, "points_lost": 1.0, "standard_error": 0.3}
    lossy = kept | {"quality": 5, "bytes": 9, "points_lost": 1.01}
    assert [encoding.mean_bytes for encoding in measured_from([kept, lossy])] == [900]


def test_the_first_rungs_are_what_is_fixed() -> None:
    settings = EdgeSettings()
    assert (IMAGES[0].recipe, IMAGES[0].scale) == (settings.image_recipe, settings.image_scale)
    assert PATCHES[0].recipe == settings.patch_recipe
    assert (IMAGES[0].points_at_risk, PATCHES[0].points_at_risk) == (0, 0)


def test_a_gain_counts_as_none_and_what_was_measured_coarsely_as_a_risk() -> None:
    draw_from = random.Random(0)
    draws = [draw_from.gauss(0, 1) for _ in range(20_000)]
    for lost, error in ((-2.0, 1.5), (0.0, 0.4), (0.5, 1.5)):
        encoding = replace(PATCHES[0], points_lost=lost, standard_error=error)
        expected = statistics.fmean(max(0.0, lost + error * draw) for draw in draws)
        assert encoding.points_at_risk == pytest.approx(expected, rel=0.05)
        assert encoding.points_at_risk > max(0.0, lost)


@pytest.mark.parametrize("name", ["format", "image_quality", "patch_subsampling", "link_aware"])
def test_what_the_user_has_said_is_not_second_guessed(name: str) -> None:
    value: Any = {"format": "png", "image_quality": 40, "patch_subsampling": "4:2:0", "link_aware": False}[
        name
    ]
    settings = EdgeSettings(**{name: value})
    recipes = EncodingChoice(settings, learnt(SLOW))
    assert recipes.for_image() == (settings.image_recipe, settings.image_scale)
    assert list(recipes.for_patch()) == [settings.patch_recipe]


@pytest.mark.parametrize("link_aware", [True, False])
def test_what_a_server_names_as_best_for_its_model_is_followed(link_aware: bool) -> None:
    """Also on a slow link; a region that would be late is encoded once more if that makes it smaller."""
    settings = EdgeSettings(link_aware=link_aware)
    named = Recipes(image=IMAGE, patch=PATCH)
    choice = EncodingChoice(settings, learnt(SLOW), named)
    assert choice.for_image() == (Recipe("jpeg", 20, 20, "4:2:0"), 0.5)
    first, *later = choice.for_patch()
    assert first == Recipe("webp", 50, 30, "4:4:4")
    assert choice.patch_scale == 0.7
    assert later == []
    finer = Recipes(patch=EncodingRecipe(format="webp", quality=90))
    _, *later = EncodingChoice(settings, learnt(SLOW), finer).for_patch()
    assert later == ([smallest(PATCHES).recipe] if link_aware else [])


@pytest.mark.parametrize("name", ["format", "image_quality", "image_scale", "patch_quality"])
def test_what_the_user_has_said_wins_over_the_servers_recipes(name: str) -> None:
    value: Any = {"format": "png", "image_quality": 41, "image_scale": 0.9, "patch_quality": 84}[name]
    settings = EdgeSettings(**{name: value})
    choice = EncodingChoice(settings, Uplink(), Recipes(image=IMAGE, patch=PATCH))
    assert choice.for_image() == (settings.image_recipe, settings.image_scale)
    assert (list(choice.for_patch()), choice.patch_scale) == ([settings.patch_recipe], 1.0)


def test_a_recipe_that_is_not_named_stays_the_edges_own() -> None:
    settings = EdgeSettings()
    choice = EncodingChoice(settings, Uplink(), Recipes(patch=PATCH))
    assert choice.for_image() == (settings.image_recipe, 1.0)
    assert choice.patch_scale == 0.7
    choice = EncodingChoice(settings, Uplink(), Recipes(image=IMAGE))
    assert choice.for_image()[1] == 0.5
    assert (list(choice.for_patch()), choice.patch_scale) == ([settings.patch_recipe], 1.0)


def test_an_unknown_link_gets_the_fixed_settings() -> None:
    settings = EdgeSettings()
    recipes = EncodingChoice(settings, Uplink())
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
    assert hasty.may_adapt
    assert len(sent.pictures[2].data) < len(sent.pictures[0].data), (
        "the second picture is as rich as the first"
    )


def test_the_rate_of_a_real_link_is_known_after_a_few_questions(live: Any, photos: list[bytes]) -> None:
    """A wide bound: machines that run tests are busy. It does not lie outside on one that is idle."""
    with limited(live.port, SLOW) as relay, EdgeClient(relay.url) as client:
        for photo in photos:
            client.ask(photo, "What?")
        rate = client.link.uplink_bytes_per_s
    assert rate is not None
    assert SLOW / 1.5 < rate < 1.5 * SLOW


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
    """The region is noise of 400x400 pixels: more than 8 kB at any encoding, 4 s on this link."""
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
    """To this edge accuracy is worth everything, so it starts at the best encoding; the smallest fits."""
    server.pixels = PixelBox(left=700, top=500, right=1100, bottom=900)
    careful = EdgeSettings(url=settings.url, point_worth_s=1e6)
    with slow_client(careful, server) as client:
        client.ask(photos[0], "What?")
        best = len(server.requests["patch"][-1].content)
        client.ask(photos[1], "What?", timeout_s=0.9 * best / 2000)
    assert len(server.requests["patch"][-1].content) < 0.9 * best
