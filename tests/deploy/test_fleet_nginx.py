"""`deploy/fleet/nginx.conf` before two servers: conversations find the server that began them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from examples.local_fleet import adapted, running_nginx
from secondglance import AsyncEdgeClient, EdgeSettings
from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.testing import free_port
from tests.needs import needs_program
from tests.server.exchange import ask, assert_problem, encode, live_server, patch_for, put_patch
from tests.server.listening import captured_log, lines

pytestmark = [pytest.mark.live, needs_program("nginx", package="nginx-light")]

TRACED = EdgeSettings(trace=True)
CONVERSATIONS = 40


@contextlib.asynccontextmanager
async def fleet(folder: Path, script: FakeScript | None = None) -> AsyncIterator[tuple[str, str, str]]:
    """The base URLs of nginx and of the servers a and b behind it."""
    async with (
        live_server(FakeEngine(script), server_tag="a") as a,
        live_server(FakeEngine(script), server_tag="b") as b,
    ):
        with running_nginx({"a": a.removeprefix("http://"), "b": b.removeprefix("http://")}, folder) as url:
            yield url, a, b


async def counted(url: str) -> dict[str, float]:
    """The server's inferences by stage and outcome, as in `1 answered`."""
    async with httpx.AsyncClient(base_url=url) as client:
        text = (await client.get("/metrics")).text
    return {
        f"{sample.labels['stage']} {sample.labels['outcome']}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "secondglance_inferences_total"
    }


async def test_every_conversation_finds_its_server_and_both_have_some(tmp_path: Path) -> None:
    """Hashing by the inference's id cannot do it: the first stage has none yet."""
    async with fleet(tmp_path, FakeScript(delay_s=0.005)) as (url, *servers):

        async def converse(client: httpx.AsyncClient) -> None:
            draft = (await ask(client)).json()
            final = await put_patch(client, draft["patch"]["url"], patch_for(draft))
            assert (final.status_code, final.json()["stage"]) == (200, 2), final.text
            assert (await client.get(f"/v1/inferences/{draft['id']}")).json()["stage"] == 2
            assert (await client.delete(f"/v1/inferences/{draft['id']}")).status_code == 204

        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            await asyncio.gather(*(converse(client) for _ in range(CONVERSATIONS)))
        counts = [await counted(server) for server in servers]
    asked = [count["1 needs_patch"] for count in counts]
    assert sum(asked) == CONVERSATIONS
    assert min(asked) > 0, "new questions go to both"
    assert [count["2 answered"] for count in counts] == asked, "and the second stage to where the first was"


async def test_the_edge_sees_one_address_and_one_trace(tmp_path: Path) -> None:
    """The edge names one trace for a conversation, and each server logs it, whichever it is."""
    with captured_log() as log:
        async with (
            fleet(tmp_path) as (url, *_),
            AsyncEdgeClient(url, settings=TRACED) as edge,
        ):
            for number in range(4):  # four pictures: one that is known is asked about by its id
                reply = await edge.ask(encode(2000 + number, 1500, "JPEG"), "What number?")
                assert (reply.answer, reply.stage, reply.degraded) == ("42", 2, None)
    traces: dict[str, set[str]] = {}
    tags = set()
    for line in lines(log):
        if "stage" in line:
            traces.setdefault(line["trace_id"], set()).add(f"{line['stage']} {line['inference_id']}")
            tags.add(line["inference_id"].split("_")[1])
    assert len(traces) == 4
    assert all(len(stages) == 2 for stages in traces.values())
    assert tags == {"a", "b"}


async def test_a_lost_server_is_passed_over_and_without_any_edges_are_told_to_wait(tmp_path: Path) -> None:
    """An edge was shown nginx's own page, which says nothing of when to come back."""
    async with contextlib.AsyncExitStack() as stack:
        a = await stack.enter_async_context(live_server(FakeEngine(), server_tag="a"))
        nobody = f"127.0.0.1:{free_port()}"
        pair = {"a": a.removeprefix("http://"), "b": nobody}
        url = stack.enter_context(running_nginx(pair, tmp_path))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
        replies = [await ask(client) for _ in range(10)]
        assert [reply.status_code for reply in replies] == [200] * 10
        # What b has begun goes to a, which knows nothing of it: its store is its own here.
        assert_problem(await client.get("/v1/inferences/inf_b_gone"), 404, "unknown_inference")
    with running_nginx({"a": nobody, "b": nobody}, tmp_path) as url:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            for refused in (await ask(client), await client.get("/v1/inferences/inf_b_gone")):
                assert_problem(refused, 503, "not_ready")
                assert refused.headers["retry-after"] == "1"


async def test_refusals_of_the_servers_come_through_and_what_is_private_does_not(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (url, *_), httpx.AsyncClient(base_url=url, timeout=30) as client:
        assert_problem(await ask(client, upload=bytes(5_000_000)), 413, "body_too_large")
        assert_problem(await client.get("/v1/inferences/inf_a_%0A"), 400, "malformed_request")
        for path in ("/metrics", "/readyz", "/healthz", "/docs", "/v1/../metrics", "/v1/%2e%2e/metrics"):
            assert (await client.get(path)).status_code in (400, 404)


def test_nginx_takes_the_example(tmp_path: Path) -> None:
    path = adapted({"a": "127.0.0.1:1", "b": "127.0.0.1:2"}, tmp_path, port=free_port())
    command = ["nginx", "-t", "-e", str(tmp_path / "error.log"), "-p", str(tmp_path), "-c", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "warn" not in result.stderr


def test_every_server_of_the_example_has_its_lines(tmp_path: Path) -> None:
    """A server that is added in one place only would get new questions and lose their second stages."""
    text = adapted({"a": "a:8000", "b": "b:8000"}, tmp_path, port=1).read_text()
    tags = set(re.findall(r"inf_([a-z0-9]{1,8})_ server_\1;", text))
    pools = dict(re.findall(r"upstream (\w+) \{(.*?)\n    \}", text, re.DOTALL))
    assert pools.keys() == {"any", *(f"server_{tag}" for tag in tags)}
    for name, body in pools.items():
        assert set(re.findall(r"server (\w+):8000", body)) == tags
        first = set(re.findall(r"server (\w+):8000 max_fails", body))
        assert first == (tags if name == "any" else {name.removeprefix("server_")})
