"""What people see when something fails: the server goes or is away, the link is slow, a key is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from lab.relay.faults import RateLimit, Schedule
from lab.relay.relay import relaying
from secondglance_server.keys import ApiKey, hash_key
from secondglance_server.testing import serving
from tests.web.conftest import PHOTO, TRUTH, Opener

AWAY = r"Failed to load resource: net::ERR_"


def test_a_server_that_goes_between_the_stages_leaves_the_first_answer(visit: Opener, url: str) -> None:
    port = int(url.rpartition(":")[2])
    with contextlib.ExitStack() as running:
        relay = running.enter_context(relaying("127.0.0.1", port))
        page = visit(at=f"http://127.0.0.1:{relay.port}", expected=AWAY)

        def leave(route: Any) -> None:
            running.close()
            route.continue_()

        page.page.route("**/patch", leave)
        page.choose(PHOTO)
        page.ask()
    assert page.text("#first .answer") not in ("", TRUTH["answer"])
    words = page.text("#first .verdict")
    assert words.startswith("Not sure: the second look failed (The server cannot be reached")
    assert words.endswith("This is the first answer.")
    assert page.page.is_visible("#region")


def test_a_server_that_is_away_is_said_so(visit: Opener, url: str) -> None:
    page = visit(expected=AWAY)
    page.choose(PHOTO)
    page.page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
    page.ask()
    assert page.text("#error").startswith("The server cannot be reached.")
    page.page.unroute("**/v1/**")
    page.ask(TRUTH["coarse_question"])
    assert (page.answer, page.text("#error")) == (TRUTH["coarse_answer"], "")


@pytest.mark.parametrize(("bytes_per_s", "moves"), [(8_000, 2), (2_000, 10)])
def test_the_bar_moves_and_is_not_full_before_the_reply(
    visit: Opener, url: str, bytes_per_s: int, moves: int
) -> None:
    """64 and 16 kbit/s: a browser says 100 % when the last byte is in a buffer, seconds before it leaves."""
    schedule = Schedule((RateLimit(bytes_per_s, "up"),))
    with relaying("127.0.0.1", int(url.rpartition(":")[2]), schedule=schedule) as relay:
        page = visit(at=f"http://127.0.0.1:{relay.port}")
        page.choose(PHOTO)
        page.page.evaluate(
            """() => { window.seen = []; const bar = document.querySelector('#bar');
            const look = () => { if (!document.querySelector('#work').hidden)
              window.seen.push([document.querySelector('#doing').textContent, bar.value]);
              requestAnimationFrame(look); }; look(); }"""
        )
        page.ask()
        assert page.answer == TRUTH["answer"]
        seen = page.page.evaluate("window.seen")
    for stage in ("the small copy", "the region"):
        values = [value for words, value in seen if words.startswith("Sending") and stage in words]
        assert values == sorted(values), stage
        assert len(set(values)) > moves, stage
        assert max(values) < 100


@pytest.fixture
def guarded() -> Iterator[str]:
    """A server that wants a key."""
    entry = ApiKey(tenant="me", sha256=hash_key("right-key")).model_dump_json(exclude_defaults=True)
    with serving("--page", environment={"SECONDGLANCE_SERVER_KEYS": f"[{entry}]"}) as url:
        yield url


def test_a_refused_key_is_said_and_asked_for(visit: Opener, guarded: str) -> None:
    page = visit(at=guarded, expected="401")
    page.choose(PHOTO)
    page.ask(TRUTH["coarse_question"])
    assert page.text("#error").startswith("The server wants a key, or does not know this one.")
    assert page.page.evaluate("document.activeElement.id") == "key"
    page.page.fill("#key", "wrong-key")
    page.ask(TRUTH["coarse_question"])
    assert "does not know this one" in page.text("#error")
    page.page.fill("#key", "right-key")
    page.ask(TRUTH["coarse_question"])
    assert (page.answer, page.text("#error")) == (TRUTH["coarse_answer"], "")


def test_a_key_is_kept_only_if_the_user_says_so(visit: Opener, guarded: str) -> None:
    page = visit(at=guarded)
    tab = page.page
    tab.click("summary")
    tab.fill("#key", "right-key")
    tab.reload()
    assert (tab.input_value("#key"), tab.evaluate("localStorage.length")) == ("", 0)
    tab.click("summary")
    tab.fill("#key", "right-key")
    tab.check("#remember")
    tab.reload()
    assert tab.input_value("#key") == "right-key"
    tab.click("summary")
    tab.uncheck("#remember")
    tab.reload()
    assert (tab.input_value("#key"), tab.evaluate("localStorage.length")) == ("", 0)
