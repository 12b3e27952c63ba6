"""Who may do what: every route of the app, every kind of key, and what belongs to another tenant."""

from __future__ import annotations

import asyncio
import base64
import itertools
import threading
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.http.door import PROBES
from secondglance_server.http.routes import router
from secondglance_server.inference.stores.quotas import MemoryQuotaStore, TokenBucket
from secondglance_server.keys import ApiKey, find_key, hash_key, new_key
from secondglance_server.settings import ServerSettings
from tests.server.exchange import (
    Clock,
    ask,
    assert_problem,
    bearer,
    key_entry,
    message,
    parts_of,
    patch_for,
    put_patch,
    running_client,
    until,
)

KEYS = [key_entry("key-a", "a"), key_entry("key-b", "b"), key_entry("scrape", "ops", scope="metrics")]

# What clients send instead of a good key.
BAD: list[dict[str, str]] = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    bearer("wrong"),
    bearer("key-a-and-more"),
    bearer(hash_key("key-a")),
    {"Authorization": "Basic key-a"},
    {"Authorization": "key-a"},
    {"X-Api-Key": "key-a"},
]


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """(method, path) of everything the app answers, the framework's own pages too."""
    every = [*app.routes, *router.routes]
    found = {
        (method, route.path.replace("{inference_id}", "inf_1"))
        for route in every
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    promised = {path.replace("{inference_id}", "inf_1") for path in app.openapi()["paths"]}
    assert promised <= {path for _, path in found}
    return found


ROUTES = sorted(routes_of(create_app(ServerSettings())))
NOWHERE = [("GET", "/"), ("GET", "/nowhere"), ("POST", "/healthz/")]
PAGES = {"/docs", "/redoc", "/openapi.json"}
GUARDED = [*(route for route in ROUTES if route[1] not in PROBES), *NOWHERE]


def test_the_matrix_has_every_route() -> None:
    some = {("POST", "/v1/inferences"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/healthz")}
    assert some <= set(ROUTES)
    assert {path for _, path in ROUTES} - {path for _, path in GUARDED} == PROBES


async def test_every_route_but_the_probes_wants_a_key() -> None:
    async with running_client(FakeEngine(), keys=KEYS) as client:
        for (method, path), headers in itertools.product(GUARDED, BAD):
            response = await client.request(method, path, headers=headers)
            assert response.status_code == 401, (method, path, headers)
            assert response.headers["www-authenticate"].partition(" ")[0] == (
                "Basic" if path in PAGES else "Bearer"
            )
        for method, path in ROUTES:
            response = await client.request(method, path, headers=bearer("key-a"))
            assert response.status_code != 401, (method, path)
        for path in PROBES:
            assert (await client.get(path)).status_code == 200


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


async def test_a_browser_opens_the_pages_with_the_key_as_password() -> None:
    """S11: a browser cannot send a bearer key, and got 401 for /docs without a way to sign in."""
    async with running_client(FakeEngine(), keys=KEYS) as client:
        for path in sorted(PAGES):
            for name in ("", "anybody", "key-b"):
                assert (await client.get(path, headers=basic(name, "key-a"))).status_code == 200
            assert_problem(await client.get(path, headers=basic("", "scrape")), 403, "forbidden")
            for password in ("", "wrong", "key-a ", " key-a", "key-a:", hash_key("key-a")):
                refused = await client.get(path, headers=basic("key-a", password))
                assert_problem(refused, 401, "unauthenticated")
                assert refused.headers["www-authenticate"].startswith('Basic realm="')
            for broken in (
                "Basic",
                "Basic ",
                "Basic key-a",
                "Basic a2V5LWE=",
                "Basic /////w==",
            ):
                refused = await client.get(path, headers={"Authorization": broken})
                assert_problem(refused, 401, "unauthenticated")


async def test_the_api_does_not_take_what_a_browser_sends_by_itself() -> None:
    """S11: else a page of another site could ask with the key that the browser remembers."""
    async with running_client(FakeEngine(), keys=KEYS) as client:
        for method, path in GUARDED:
            if path not in PAGES:
                response = await client.request(method, path, headers=basic("key-a", "key-a"))
                assert response.status_code == 401, (method, path)
                assert response.headers["www-authenticate"] == "Bearer"


async def test_two_keys_in_one_request_are_none() -> None:
    async with running_client(FakeEngine(), keys=KEYS) as client:
        both = [("Authorization", "Bearer key-a"), ("Authorization", "Bearer key-b")]
        assert_problem(await client.get("/v1/model", headers=both), 401, "unauthenticated")


async def test_every_byte_that_is_read_is_charged() -> None:
    """S4: bodies of requests that no route reads were thrown away, and cost their key nothing."""
    paths = ["/nowhere", "/v1/inferences", "/v1/inferences/", "/v1/model", "/metrics", "/docs"]
    paths += ["/v1/inferences/inf_1", "/v1/inferences/inf_1/patch"]
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    for n, (method, path) in enumerate(itertools.product(methods, paths)):
        limited = key_entry("key", bytes_per_min=1000)
        async with running_client(FakeEngine(), keys=[limited]) as client:
            client.headers.update(bearer("key"))

            async def stream() -> AsyncIterator[bytes]:
                for _ in range(64):
                    yield bytes(1000)

            given = bytes(64_000) if n % 2 else stream()
            first = await client.request(method, path, content=given)
            assert first.status_code != 429, (method, path)
            second = await client.get("/v1/model")
            assert_problem(second, 429, "rate_limited")
            assert int(second.headers["retry-after"]) > 60 * 60, (
                method,
                path,
            )  # all of it, not its first bytes


async def test_scopes_do_not_overlap() -> None:
    async with running_client(FakeEngine(), keys=KEYS) as client:
        for method, path in GUARDED:
            for_metrics = await client.request(method, path, headers=bearer("scrape"))
            for_asking = await client.request(method, path, headers=bearer("key-a"))
            assert (for_metrics.status_code == 403) == (path != "/metrics"), (method, path)
            assert (for_asking.status_code == 403) == (path == "/metrics"), (method, path)
        assert "secondglance_requests" in (await client.get("/metrics", headers=bearer("scrape"))).text
        assert_problem(await client.get("/v1/model", headers=bearer("scrape")), 403, "forbidden")


async def test_nothing_of_one_tenant_is_there_for_another() -> None:
    engine = FakeEngine()
    async with running_client(engine, keys=[*KEYS, key_entry("key-a2", "a")]) as client:

        async def post(key: str, **changes: str) -> httpx.Response:
            upload = {"upload": None} if "image_id" in changes else {}
            parts = parts_of(message(**changes), **({"image": None} if upload else {}))
            headers = bearer(key) | {"Idempotency-Key": "same"}
            return await client.post("/v1/inferences", files=parts, headers=headers)

        draft = (await post("key-a")).json()
        url, patch = draft["patch"]["url"], patch_for(draft)
        client.headers.update(bearer("key-b"))
        assert_problem(await client.get(f"/v1/inferences/{draft['id']}"), 404, "unknown_inference")
        assert_problem(await client.delete(f"/v1/inferences/{draft['id']}"), 404, "unknown_inference")
        assert_problem(await put_patch(client, url, patch), 404, "unknown_inference")
        assert_problem(await ask(client, upload=None, image_id=draft["image_id"]), 410, "image_expired")

        other = await post("key-b")  # the same key for the same payload: its own inference, its own image
        assert "idempotency-replayed" not in other.headers
        assert other.json()["id"] != draft["id"]
        assert other.json()["image_id"] != draft["image_id"]

        client.headers.update(bearer("key-a2"))  # another key of the first tenant
        assert (await put_patch(client, url, patch)).json()["answer"] == "42"


async def test_the_device_never_shares_a_picture_between_tenants() -> None:
    """Pictures are named by content and tenant: a prefix cache keyed by them cannot leak or be timed."""
    keys: list[str] = []

    class Watched(FakeEngine):
        def answer(self, requests):  # type: ignore[no-untyped-def]
            keys.extend(request.picture.key for request in requests)
            return super().answer(requests)

    async with running_client(Watched(), keys=KEYS) as client:
        for key in ("key-a", "key-b", "key-a"):
            client.headers.update(bearer(key))
            assert (await ask(client, mode="answer_only")).status_code == 200
    assert keys[0] == keys[2] != keys[1]


async def test_a_key_has_so_many_requests_at_a_time() -> None:
    engine = FakeEngine()
    release = threading.Event()
    keys = [key_entry("key-a", "a", max_concurrent=1), key_entry("key-b", "b")]
    async with running_client(engine, keys=keys) as client:
        engine.before_call = release.wait
        client.headers.update(bearer("key-a"))
        running = asyncio.create_task(ask(client, mode="answer_only"))
        await until(lambda: len(engine.calls) == 1)
        refused = await ask(client)
        assert assert_problem(refused, 429, "rate_limited")["retryable"]
        assert refused.headers["retry-after"] == "1"
        assert (await client.get("/v1/model", headers=bearer("key-b"))).status_code == 200
        release.set()
        assert (await running).status_code == 200
        assert (await ask(client)).status_code == 200


async def test_a_key_has_so_many_requests_and_bytes_a_minute() -> None:
    keys = [key_entry("key-a", requests_per_min=2), key_entry("key-b", bytes_per_min=100)]
    async with running_client(FakeEngine(), keys=keys) as client:
        client.headers.update(bearer("key-a"))
        statuses = [(await client.get("/v1/model")).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        client.headers.update(bearer("key-b"))
        assert (await ask(client)).status_code == 200  # more than a minute's bytes: the next one waits for it
        refused = await ask(client)
        assert_problem(refused, 429, "rate_limited")
        assert int(refused.headers["retry-after"]) > 60


def test_a_bucket_refills_and_holds_a_minutes_worth(clock: Clock) -> None:
    bucket = TokenBucket(60, clock)
    bucket.take(90)
    assert bucket.wait_s(1) == pytest.approx(31)
    clock.advance(31)
    assert bucket.wait_s(1) == 0
    clock.advance(3600)
    bucket.take(60)
    assert bucket.wait_s(1) == pytest.approx(1)


async def test_a_refused_request_costs_nothing(clock: Clock) -> None:
    quotas, key = MemoryQuotaStore(clock), ApiKey(tenant="a", sha256="0" * 64, requests_per_min=1)
    async with quotas.request(key):
        pass
    for _ in range(3):
        with pytest.raises(Exception, match="for now"):
            async with quotas.request(key):
                pass
    clock.advance(60)
    async with quotas.request(key):
        pass


def test_a_new_key_is_long_and_never_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) >= 43
    assert find_key(KEYS, "key-b") is KEYS[1]
    assert find_key(KEYS, "key-c") is None
