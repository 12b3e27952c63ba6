"""The edge against the real app on a real socket: bytes, pixels, and a connection cut at every point."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trustme
from PIL import Image, ImageOps

from lab.relay.faults import ByteLimit, Cut, Reset
from secondglance import (
    AsyncEdgeClient,
    EdgeClient,
    EdgeSettings,
    NotAllowedError,
    Reply,
    ServerUnavailableError,
    UplinkBudgetError,
)
from secondglance.client import Observer
from secondglance.conversation.steps import Send
from secondglance_server.app import create_app
from secondglance_server.engine.fake import FAKE_INFO, FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerResult, EncoderBudget, EngineError
from secondglance_server.settings import ServerSettings
from tests.server.exchange import key_entry

QUICK = {"retry_wait_s": 0.001, "max_retry_wait_s": 0.002}


class WatchedEngine(FakeEngine):
    """Keeps the patches it was shown, and fails as often as `failures_left` says."""

    def __init__(self) -> None:
        super().__init__(info=replace(FAKE_INFO, patch=EncoderBudget(2048, 2048)))
        self.patches: list[np.ndarray] = []
        self.failures_left = 0

    def answer(self, requests: Any) -> list[AnswerResult | EngineError]:
        if self.failures_left:
            self.failures_left -= 1
            return [EngineError("scripted failure") for _ in requests]
        self.patches += [request.patch.rgb for request in requests if request.patch is not None]
        return super().answer(requests)


@pytest.fixture(scope="module")
def engine() -> WatchedEngine:
    return WatchedEngine()


@pytest.fixture(scope="module")
def live(serve: Any, engine: WatchedEngine) -> Any:
    return serve(engine)


@pytest.fixture(scope="module")
def photo(pictures) -> bytes:
    return pictures.photo((2000, 1500), quality=95)


def ask_blocking(url: str, source: Any, *, observe: Observer | None = None, **terms: Any) -> Reply:
    with EdgeClient(settings=EdgeSettings(url=url, **QUICK), observe=observe) as client:
        return client.ask(source, "What number?", **terms)


def ask_async(url: str, source: Any, *, observe: Observer | None = None, **terms: Any) -> Reply:
    async def main() -> Reply:
        async with AsyncEdgeClient(settings=EdgeSettings(url=url, **QUICK), observe=observe) as client:
            return await client.ask(source, "What number?", **terms)

    return asyncio.run(main())


@pytest.fixture(params=[ask_blocking, ask_async], ids=["blocking", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Reply]:
    return request.param


def test_both_stages_and_a_retry_are_receipted_to_the_byte(ask, live, engine, relay_to, photo) -> None:
    """The relay counts on its own; the engine's failure makes the first POST a 503 that is tried again."""
    relay = relay_to(live.port)
    engine.failures_left = 1
    reply = ask(relay.url, photo)
    assert (reply.answer, reply.stage, reply.degraded) == ("42", 2, None)
    receipt = reply.receipt
    assert (receipt.uplink_bytes, receipt.downlink_bytes) == relay.passed
    assert len(relay.connections) == 1
    assert (receipt.requests, receipt.retries) == (4, 1)
    assert [stage.requests for stage in receipt.stages] == [1, 2, 1]
    assert receipt.original_bytes == len(photo)
    assert receipt.uplink_bytes < len(photo) / 4


def test_framing_is_lean_as_the_relay_counts_it(live, relay_to, photo) -> None:
    """745 bytes went around the picture with its question and 302 around the patch."""
    relay = relay_to(live.port)
    sent: list[Send] = []
    with EdgeClient(
        settings=EdgeSettings(url=relay.url),
        observe=lambda step: sent.append(step) if isinstance(step, Send) else None,
    ) as client:
        receipt = client.ask(photo, "What number is on the sign?").receipt
    setup, stage1, stage2 = sent
    assert receipt.uplink_bytes == relay.passed.up
    assert setup.stage == "setup"
    assert receipt.setup.uplink_bytes <= 60
    assert receipt.stage1.uplink_bytes - len(stage1.parts[-1].data) <= 245
    assert receipt.stage2.uplink_bytes - len(stage2.body) <= 140


def test_one_client_keeps_its_connection_and_receipts_each_question(live, relay_to, photo) -> None:
    relay = relay_to(live.port)
    with EdgeClient(settings=EdgeSettings(url=relay.url)) as client:
        receipts = [client.ask(photo, question).receipt for question in ("What?", "And what else?")]
    assert sum(receipt.uplink_bytes for receipt in receipts) == relay.passed.up
    assert sum(receipt.downlink_bytes for receipt in receipts) == relay.passed.down
    assert len(relay.connections) == 1
    assert receipts[1].setup.requests == 0
    assert receipts[1].stage1.uplink_bytes < 1000  # the server still holds the picture


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_patch_that_arrives_equals_the_crop_of_the_upright_original(
    live, engine, pictures, orientation: int
) -> None:
    """End to end, in a lossless format: header parsing, box, orientation, encoding, decoding."""
    data = pictures.photo((1500, 1001), orientation=orientation)
    settings = EdgeSettings(url=live.url, format="png")
    with EdgeClient(settings=settings) as client:
        reply = client.ask(data, f"What is at orientation {orientation}?")
    assert reply.roi is not None
    box = reply.roi.pixels
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    crop = upright.crop((box.left, box.top, box.right, box.bottom))
    assert np.array_equal(engine.patches[-1], np.asarray(crop))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 4000), (4000, 1), (333, 517), (3, 4000)], ids=str)
@pytest.mark.parametrize("mode", ["auto", "always"])
def test_the_server_takes_what_is_made_of_odd_originals(
    ask, live, pictures, size: tuple[int, int], mode: str
) -> None:
    """Sides of one pixel and any aspect are thickened until the server's limits allow them."""
    reply = ask(live.url, pictures.photo(size), mode=mode)
    assert reply.degraded is None
    assert reply.answer in ("a sign", "42")


def points(reply: Reply, direction: str) -> list[tuple[int, str]]:
    """Bytes after which to cut, spread over each stage, and what the edge must make of it."""
    start, found = 0, []
    for stage, outcome in zip(reply.receipt.stages, ("error", "error", "draft"), strict=True):
        length = stage.uplink_bytes if direction == "up" else stage.downlink_bytes
        found += [(start + round(length * share), outcome) for share in (0.02, 0.35, 0.7, 0.95)]
        start += length
    return found


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_anywhere_gives_the_draft_or_the_documented_error(
    ask, live, relay_to, photo, direction: str
) -> None:
    """The relay cuts for good once so many bytes have passed; later connections die at their first byte."""

    def cutting_relay(limit: int) -> str:
        return relay_to(live.port, ByteLimit(direction, limit)).url

    clean = ask(live.url, photo)
    for limit, outcome in points(clean, direction):
        if outcome == "draft":
            reply = ask(cutting_relay(limit), photo)
            assert (reply.answer, reply.stage) == ("a sign", 1), limit
            assert reply.degraded
            assert reply.receipt.stage2.retries == 2
        with pytest.raises(ServerUnavailableError) as raised:
            ask(cutting_relay(limit), photo, strict=outcome == "draft")
        assert raised.value.exit_code == 69


@pytest.mark.parametrize("fault", [Cut, Reset])
def test_a_connection_cut_once_is_made_again_unnoticed(ask, live, relay_to, photo, fault) -> None:
    """In the middle of the patch; the PUT is idempotent, so trying again cannot answer twice."""
    clean = ask(live.url, photo)
    in_the_patch = sum(stage.uplink_bytes for stage in clean.receipt.stages[:2]) + 1000
    relay = relay_to(live.port, by_connection={0: (fault("up", in_the_patch),)})
    reply = ask(relay.url, photo)
    assert (reply.answer, reply.degraded, reply.receipt.retries) == ("42", None, 1)


@pytest.mark.parametrize("budget", range(3_000, 120_000, 9_000))
def test_the_uplink_never_exceeds_its_budget(live, relay_to, photo, budget: int) -> None:
    relay = relay_to(live.port)
    with contextlib.suppress(UplinkBudgetError):
        reply = ask_blocking(relay.url, photo, max_uplink_bytes=budget)
        assert reply.receipt.uplink_bytes == relay.passed.up
        assert (reply.stage == 2) == (reply.degraded is None)
    assert relay.passed.up <= budget


@pytest.mark.parametrize("key", [None, "k" * 43])
def test_a_budget_that_suffices_is_accepted_and_a_refusal_names_one(serve, photo, key: str | None) -> None:
    """U9: 8,681 bytes were refused a budget of 10,000, and a refusal left the user to guess."""
    live = serve(FakeEngine(), keys=[key_entry(key)] if key else [])

    def asked(budget: int | None) -> Reply:
        with EdgeClient(live.url, api_key=key) as client:
            return client.ask(photo, "What does it say?", max_uplink_bytes=budget, strict=True)

    needed = asked(None).receipt.uplink_bytes
    for spare in (16, 100, 1000):
        reply = asked(needed + spare)
        assert (reply.stage, reply.receipt.uplink_bytes) == (2, needed)
    budget, refusals = 1, 0
    while (needs := _refusal_of(asked, budget)) is not None:
        assert needs > budget
        budget, refusals = needs, refusals + 1
    assert refusals < 10  # of each request; a larger budget also makes the first picture better
    assert asked(budget).receipt.uplink_bytes <= budget


def _refusal_of(asked: Callable[[int | None], Reply], budget: int) -> int | None:
    """Return the budget that the refusal of `budget` names, None if it is not refused."""
    try:
        asked(budget)
    except UplinkBudgetError as exc:
        return int(re.findall(r"takes max_uplink_bytes=(\d+) at the least", str(exc))[0])
    return None


def test_a_server_with_a_key_lets_in_who_has_it(serve, photo) -> None:
    url = serve(FakeEngine(), keys=[key_entry("right")]).url
    for key in (None, "wrong"):
        with EdgeClient(url, api_key=key) as client, pytest.raises(NotAllowedError):
            client.ask(photo, "What?")
    with EdgeClient(url, api_key="right") as client:
        assert client.ask(photo, "What?").answer == "42"


def test_https_works_with_a_private_authority_and_is_counted(
    ask, serve, relay_to, photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE is the usual way to trust one's own; without it nothing of the picture leaves."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = [tmp_path / name for name in ("server.pem", "server.key", "ca.pem")]
    certificate.cert_chain_pems[0].write_to_path(files[0])
    certificate.private_key_pem.write_to_path(files[1])
    authority.cert_pem.write_to_path(files[2])
    live = serve(FakeEngine(), tls=(str(files[0]), str(files[1])))
    relay = relay_to(live.port)
    with pytest.raises(ServerUnavailableError, match=r"(?i)certificate"):
        ask(relay.url.replace("http", "https"), photo)
    assert relay.passed.up < 4000
    monkeypatch.setenv("SSL_CERT_FILE", str(files[2]))
    trusted = relay_to(live.port)
    reply = ask(trusted.url.replace("http", "https"), photo)
    assert reply.answer == "42"
    assert reply.receipt.downlink_bytes <= trusted.passed.down <= reply.receipt.downlink_bytes + 100
    assert reply.receipt.uplink_bytes == trusted.passed.up


def test_threads_share_a_client_and_keep_their_receipts_apart(live, pictures) -> None:
    photos = [pictures.photo((700 + 100 * n, 800), seed=n) for n in range(6)]
    replies: dict[int, Reply] = {}
    with EdgeClient(settings=EdgeSettings(url=live.url)) as client:
        client.model()

        def ask_about(n: int) -> None:
            replies[n] = client.ask(photos[n], "What?", mode="answer_only")

        threads = [threading.Thread(target=ask_about, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with EdgeClient(settings=EdgeSettings(url=live.url)) as client:
        alone = [client.ask(photo, "What?", mode="answer_only") for photo in photos]
    for n in range(6):
        assert replies[n].receipt.original_bytes == len(photos[n])
        assert replies[n].receipt.stage1.uplink_bytes == alone[n].receipt.stage1.uplink_bytes


async def test_in_process_and_over_the_wire_give_the_same_answer(live, photo) -> None:
    """The same app without a socket: equal replies, and a receipt that counts nothing."""
    app = create_app(ServerSettings(), FakeEngine(FakeScript()))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with AsyncEdgeClient(live.url, transport=transport) as client:
            inside = await client.ask(photo, "What number?")
    async with AsyncEdgeClient(live.url) as client:
        outside = await client.ask(photo, "What number?")
    assert (inside.answer, inside.roi, inside.confidence) == (outside.answer, outside.roi, outside.confidence)
    assert inside.receipt.uplink_bytes == 0
    assert inside.receipt.requests == outside.receipt.requests == 3


class UnsureEngine(FakeEngine):
    """Never sure, also not of what it reads in a region; each look leaves another doubt."""

    def __init__(self) -> None:
        super().__init__()
        self.n_looks = 0

    def answer(self, requests: Any) -> list[AnswerResult | EngineError]:
        if requests[0].patch is not None:
            self.n_looks += 1
            self.script = FakeScript(
                answer=f"look {self.n_looks}", answer_entropy_nats=2.0 - self.n_looks / 10
            )
        return super().answer(requests)


def test_each_look_is_receipted_to_the_byte_and_the_budget_holds_for_all(ask, serve, relay_to, photo) -> None:
    """The relay counts on its own. A budget that ends between two looks ends the question with an answer."""
    budget = None
    for n_looks in (4, 3, 1):
        engine = UnsureEngine()
        relay = relay_to(serve(engine).port)
        reply = ask(relay.url, photo, max_rounds=4, max_uplink_bytes=budget)
        receipt = reply.receipt
        assert (receipt.uplink_bytes, receipt.downlink_bytes) == relay.passed
        assert relay.passed.up <= (budget or math.inf)
        assert len(reply.looks) == engine.n_looks == 1 + len(receipt.further_looks) == n_looks
        assert [stage.requests for stage in receipt.stages] == [1, 1] + [1] * n_looks
        assert (reply.answer, reply.degraded) == (f"look {n_looks}", None)
        assert reply.roi == reply.looks[-1].roi
        spent = [stage.uplink_bytes for stage in receipt.stages]
        budget = sum(spent[:5]) + 200 if n_looks == 4 else sum(spent[:3]) + 200
