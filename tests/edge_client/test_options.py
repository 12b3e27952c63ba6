"""Derived clients and hooks: other terms on the same connections, and who is told what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from secondglance import AsyncEdgeClient, EdgeClient, Hooks
from secondglance.conversation.steps import Arrived, Lost, Send
from secondglance_protocol.errors import ErrorCode


@pytest.fixture(params=["blocking", "async"])
def run(request: pytest.FixtureRequest, settings: Any, server: Any) -> Callable[..., Any]:
    """Make a client, derive another with `options`, ask it; returns the reply."""

    def blocking(source: Any, *, made_with: dict[str, Any], options: dict[str, Any], **terms: Any) -> Any:
        transport = httpx.MockTransport(server)
        with EdgeClient(settings=settings, transport=transport, **made_with) as client:
            return client.with_options(**options).ask(source, "What?", **terms)

    async def awaited(
        source: Any, *, made_with: dict[str, Any], options: dict[str, Any], **terms: Any
    ) -> Any:
        transport = httpx.MockTransport(server)
        async with AsyncEdgeClient(settings=settings, transport=transport, **made_with) as client:
            return await client.with_options(**options).ask(source, "What?", **terms)

    if request.param == "blocking":
        return blocking
    return lambda *a, **k: asyncio.run(awaited(*a, **k))


@pytest.fixture(scope="module")
def photo(pictures: Any) -> bytes:
    return pictures.photo((800, 600))


def test_options_are_the_terms_unless_ask_says_otherwise(run: Any, photo: bytes) -> None:
    only = {"mode": "answer_only"}
    assert run(photo, made_with={}, options={}).stage == 2
    assert run(photo, made_with={}, options=only).stage == 1
    assert run(photo, made_with={}, options=only, mode="auto").stage == 2


def test_options_add_up_and_leave_the_first_client_alone(settings: Any, server: Any, photo: bytes) -> None:
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        brief = client.with_options(mode="answer_only").with_options(max_new_tokens=3)
        brief.ask(photo, "What?")
        assert b'"max_new_tokens":3' in server.parts(server.requests["first"][-1])["request"]
        assert b"answer_only" in server.parts(server.requests["first"][-1])["request"]
        assert client.ask(photo, "What?").stage == 2


def test_a_derived_client_shares_what_the_server_is_known_to_hold(
    settings: Any, server: Any, photo: bytes
) -> None:
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        client.ask(photo, "What?")
        client.with_options(strict=True).ask(photo, "What else?")
    assert len(server.requests["model"]) == 1
    assert b"image_id" in server.parts(server.requests["first"][1])["request"]


def test_an_unknown_option_is_an_error_at_once(settings: Any, server: Any) -> None:
    with (
        EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client,
        pytest.raises(TypeError, match="threshhold"),
    ):
        client.with_options(threshhold=1)  # the mistake is the test


def test_hooks_are_told_each_attempt_its_outcome_and_each_answer(
    run: Any, server: Any, fault: Any, photo: bytes
) -> None:
    server.faults["patch"] = [httpx.ReadError("cut"), fault(ErrorCode.BUSY, retry_after="0")]
    told: list[str] = []

    def on_response(send: Send, outcome: Arrived | Lost) -> None:
        told.append(f"< {outcome.status if isinstance(outcome, Arrived) else outcome.kind}")

    hooks = Hooks(
        on_request=lambda send: told.append(f"> {send.stage}"),
        on_response=on_response,
        on_answer=lambda reply: told.append(f"= {reply.stage} {reply.answer}"),
    )
    for made_with, options in (
        ({"hooks": hooks}, {}),
        ({}, {"hooks": hooks}),
        ({"hooks": hooks}, {"hooks": Hooks()}),
    ):
        told.clear()
        run(photo, made_with=made_with, options=options)
        if options.get("hooks") == Hooks():
            assert told == []
            continue
        retries = ["> stage2", "< network", "> stage2", "< 503"] if not options else []
        assert told == [
            "> setup",
            "< 200",
            "> stage1",
            "< 200",
            "= 1 draft",
            *retries,
            "> stage2",
            "< 200",
            "= 2 final",
        ]


def test_what_a_hook_raises_ends_the_question(run: Any, photo: bytes, server: Any) -> None:
    class StopError(Exception):
        pass

    def stop(_: Any) -> None:
        raise StopError

    with pytest.raises(StopError):
        run(photo, made_with={"hooks": Hooks(on_answer=stop)}, options={})
    assert not server.requests["patch"]
