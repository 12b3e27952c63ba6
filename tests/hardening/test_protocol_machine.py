"""Any interleaving of what two tenants and an operator may do keeps the protocol's promises.

The app is the real one, in this process, with a fake engine that counts and a clock that moves when told to.
The machine remembers what it was answered, and from that alone knows what must come next. It runs against one
server that keeps all in memory, and against two that share a Redis, where each request goes to either.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EngineError
from secondglance_server.inference.stores.protocol import Stores
from secondglance_server.inference.stores.redis.opening import redis_stores
from secondglance_server.inference.stores.redis.sessions import MARKER_LIVES
from secondglance_server.settings import ServerSettings
from tests.server.exchange import (
    Clock,
    assert_problem,
    encode,
    key_entry,
    message,
    parts_of,
    patch_for,
    until,
)
from tests.server.fake_redis import FakeRedis, tell_time_by

T = TypeVar("T")

TTL_S = 100.0
TENANTS = ("north", "south")
HARD = "hard"  # in a question
ROUNDS = st.sampled_from([1, 1, 2, 3, 4])
GLOBAL_IMAGES = {colour: encode(64, 48, color=colour) for colour in ("red", "green")}  # sent by both tenants
KEYS = [key_entry(f"key-{name}", tenant=name) for name in TENANTS]
COLOURS = st.sampled_from(sorted(GLOBAL_IMAGES))


class CountingEngine(FakeEngine):
    """Counts the answers that it gave, by question and patch; fails when told to.

    No look at a region makes it sure of a question that is hard: the redder the crop, the less sure it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.failures_left = 0

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        results = super().answer(requests)
        if self.failures_left:
            self.failures_left -= 1
            return [EngineError("scripted failure") for _ in requests]
        self.answers.update(
            (each.question, "" if each.patch is None else each.patch.key) for each in requests
        )
        return results

    def _answer_one(self, request: AnswerRequest) -> AnswerResult | EngineError:
        self.script = FakeScript()
        if request.patch is not None and HARD in request.question:
            self.script = FakeScript(answer_entropy_nats=doubt_of(int(request.patch.rgb[0, 0, 0])))
        return super()._answer_one(request)


def doubt_of(red: int) -> float:
    """The uncertainty of a look at a crop of that red, 0 to 255; above the threshold."""
    return 1.0 + red / 256


@dataclass(frozen=True)
class Asked:
    """A first request and everything needed to send it again."""

    tenant: str
    key: str
    request: dict[str, Any]
    image: bytes | None


@dataclass(frozen=True)
class Patch:
    """A crop that may be sent; `is_small`: in fewer pixels than the model can see."""

    data: bytes
    red: int
    is_small: bool = False


@dataclass(frozen=True)
class Look:
    """A crop that was answered, and the region that had been asked for."""

    patch: bytes
    red: int
    box: dict[str, int]


@dataclass(frozen=True)
class Known:
    """What the machine knows of an inference. `reply` is the latest, `expires_at_s` as the clock counts.

    `rounds` is how many looks its question allows, `looks` are those that were answered.
    """

    id: str
    tenant: str
    question: str
    reply: dict[str, Any]
    expires_at_s: float
    rounds: int = 1
    looks: tuple[Look, ...] = ()
    is_deleted: bool = False

    @property
    def patch(self) -> bytes | None:
        """The latest that was answered."""
        return self.looks[-1].patch if self.looks else None

    @property
    def waits_for_patch(self) -> bool:
        return self.reply["status"] == "needs_patch"


class Protocol(RuleBasedStateMachine):
    asked = Bundle("asked")

    n_servers = 1
    remembers_expiry_s = math.inf  # 410 becomes 404 after that long; in memory when 10,000 others expired

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.known: dict[str, Known] = {}
        self.replies: dict[tuple[str, str], tuple[Asked, dict[str, Any], float]] = {}  # by tenant and key
        self.images: dict[str, tuple[str, float]] = {}  # image id -> tenant, when it expires
        self.n_questions = 0
        self.n_patches = 0
        self.start()

    def start(self) -> None:
        self.engine = CountingEngine()
        self.stack = AsyncExitStack()
        self.apps = [self.run(self.started()) for _ in range(self.n_servers)]
        self.clients = {
            name: self.run(
                self.stack.enter_async_context(
                    httpx.AsyncClient(
                        transport=InTurn(self.apps),
                        base_url="http://test",
                        headers={"Authorization": f"Bearer key-{name}"},
                    )
                )
            )
            for name in TENANTS
        }

    async def started(self) -> FastAPI:
        """All servers share the engine that counts."""
        settings = ServerSettings(session_ttl_s=TTL_S, keys=KEYS)
        app = create_app(settings, self.engine, clock=self.clock, stores=self.stores())
        await self.stack.enter_async_context(app.router.lifespan_context(app))
        return app

    def stores(self) -> Stores | None:
        """Return the stores of a server that starts; None: in its memory."""
        return None

    def stop(self) -> None:
        self.run(self.stack.aclose())
        assert self.engine.is_closed

    def teardown(self) -> None:
        self.stop()
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # What is sent.

    async def post(self, asked: Asked) -> httpx.Response:
        return await self.clients[asked.tenant].post(
            "/v1/inferences",
            files=parts_of(asked.request, asked.image),
            headers={"Idempotency-Key": asked.key} if asked.key else {},
        )

    async def put(self, tenant: str, inference_id: str, patch: bytes) -> httpx.Response:
        return await self.clients[tenant].put(
            f"/v1/inferences/{inference_id}/patch", content=patch, headers={"Content-Type": "image/png"}
        )

    async def get(self, tenant: str, inference_id: str) -> httpx.Response:
        return await self.clients[tenant].get(f"/v1/inferences/{inference_id}")

    # What the machine makes of it.

    def new_question(self, rounds: int = 1, **changes: Any) -> dict[str, Any]:
        """Most questions that allow further looks are hard, so that these are asked for."""
        self.n_questions += 1
        hard = f"{HARD} " if rounds > 1 and self.n_questions % 4 else ""
        if rounds > 1:
            changes["max_rounds"] = rounds
        return message(question=f"{hard}question {self.n_questions}", **changes)

    def new_patch(self, offer: dict[str, Any], *, is_small: bool = False) -> Patch:
        """A crop unlike all others, of the size that is asked for or less."""
        self.n_patches += 1
        red = self.n_patches * 89 % 256
        if is_small:
            sides = {"max_width": 60, "max_height": 60, "max_pixels": None}
            offer = {**offer, "patch": {**offer["patch"], **sides}}
        return Patch(patch_for(offer, f"#{red:02x}{self.n_patches % 65536:04x}"), red, is_small)

    def learn(self, asked: Asked, response: httpx.Response) -> None:
        """Of a first answer that was inferred now."""
        assert response.status_code == 200, response.text
        assert "idempotency-replayed" not in response.headers
        reply = response.json()
        assert reply["id"] not in self.known, "ids are never used again"
        assert reply["answer"] == "a sign"
        now_s = self.clock()
        self.known[reply["id"]] = Known(
            reply["id"],
            asked.tenant,
            asked.request["question"],
            reply,
            now_s + TTL_S,
            asked.request.get("max_rounds", 1),
        )
        self.images[reply["image_id"]] = (asked.tenant, now_s + TTL_S)
        if asked.key:
            self.replies[asked.tenant, asked.key] = (asked, reply, now_s + TTL_S)

    def refusal(self, tenant: str, known: Known) -> tuple[int, str] | None:
        """What a tenant must be told of an inference, None if it is there."""
        if known.tenant != tenant or known.is_deleted:
            return 404, "unknown_inference"
        if self.clock() >= known.expires_at_s + self.remembers_expiry_s:
            return 404, "unknown_inference"
        if self.clock() >= known.expires_at_s:
            return 410, "inference_expired"
        return None

    def draw_known(self, data: st.DataObject) -> tuple[str, Known]:
        """Somebody, and an inference: mostly one's own, and mostly one that is still there."""
        alive = [known for known in self.known.values() if self.refusal(known.tenant, known) is None]
        any_of = alive if alive and data.draw(st.integers(0, 3)) else list(self.known.values())
        known = data.draw(st.sampled_from(any_of))
        is_owner = data.draw(st.integers(0, 3))
        return known.tenant if is_owner else TENANTS[1 - TENANTS.index(known.tenant)], known

    # What may happen.

    @rule(
        tenant=st.sampled_from(TENANTS),
        colour=COLOURS,
        mode=st.sampled_from(["auto", "answer_only", "always"]),
        rounds=ROUNDS,
    )
    def ask(self, tenant: str, colour: str, mode: str, rounds: int) -> None:
        asked = Asked(tenant, "", self.new_question(rounds, mode=mode), GLOBAL_IMAGES[colour])
        self.learn(asked, self.run(self.post(asked)))

    @rule(
        target=asked,
        tenant=st.sampled_from(TENANTS),
        key=st.sampled_from(["k1", "k2", "k3"]),
        colour=COLOURS,
        rounds=ROUNDS,
    )
    def ask_with_a_key(self, tenant: str, key: str, colour: str, rounds: int) -> Any:
        """A key that this tenant used before is a clash; another tenant's use of it is none."""
        asked = Asked(tenant, key, self.new_question(rounds), GLOBAL_IMAGES[colour])
        response = self.run(self.post(asked))
        held = self.replies.get((tenant, key))
        if held is not None and self.clock() < held[2]:
            assert_problem(response, 422, "idempotency_mismatch")
            return multiple()
        self.learn(asked, response)
        return asked

    @rule(asked=asked)
    def ask_again(self, asked: Asked) -> None:
        """The same reply while it is remembered; afterwards the question is a new one."""
        held = self.replies.get((asked.tenant, asked.key))
        is_remembered = held is not None and self.clock() < held[2]
        fresh = asked if is_remembered else replace(asked, request=self.new_question())
        response = self.run(self.post(fresh))
        if held is None or not is_remembered:
            self.learn(fresh, response)
        elif held[0] == asked:
            assert response.headers["idempotency-replayed"] == "true"
            assert response.json() == held[1]
        else:
            assert_problem(response, 422, "idempotency_mismatch")

    @precondition(lambda self: self.images)
    @rule(data=st.data(), tenant=st.sampled_from(TENANTS))
    def ask_about_a_held_image(self, data: st.DataObject, tenant: str) -> None:
        """Ids of images are hashes: knowing another tenant's is of no use."""
        image_id = data.draw(st.sampled_from(sorted(self.images)))
        owner, expires_at_s = self.images[image_id]
        asked = Asked(tenant, "", self.new_question(image_id=image_id), None)
        response = self.run(self.post(asked))
        if owner != tenant or self.clock() >= expires_at_s:
            assert_problem(response, 410, "image_expired")
        else:
            self.learn(asked, response)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), which=st.sampled_from(["new", "new", "small", "latest", "earlier"]))
    def send_patch(self, data: st.DataObject, which: str) -> None:
        """A retry of an earlier look's patch is none of a later look."""
        tenant, known = self.draw_known(data)
        offer = known.reply if known.waits_for_patch else OFFER
        patch = self.new_patch(offer, is_small=which == "small")
        if which in ("latest", "earlier") and known.looks:
            again = known.looks[0 if which == "earlier" else -1]
            patch = Patch(again.patch, again.red)
        response = self.run(self.put(tenant, known.id, patch.data))
        refused = self.refusal(tenant, known)
        event(f"a patch after {len(known.looks)} looks of {known.rounds}: {which}, {refused}")
        if refused:
            assert_problem(response, *refused)
        elif known.patch == patch.data:
            assert response.json() == known.reply
        elif known.looks and (not known.waits_for_patch or patch.data in {e.patch for e in known.looks}):
            assert_problem(response, 409, "patch_conflict")
        elif not known.waits_for_patch:
            assert_problem(response, 409, "stage_conflict")
        else:
            self.learn_look(known, patch, response)

    def learn_look(self, known: Known, patch: Patch, response: httpx.Response) -> None:
        """Of a patch that was answered now: the surest look counts; while it is doubtful there are more."""
        assert response.status_code == 200, response.text
        reply, box = response.json(), known.reply["roi"]["pixels"]
        assert (reply["id"], reply["stage"], reply["answer"]) == (known.id, 2, "42")
        looks = (*known.looks, Look(patch.data, patch.red, box))
        if HARD not in known.question:
            assert (reply["status"], reply["roi"]["pixels"]) == ("answered", box)
        else:
            surest = min(looks, key=lambda look: look.red)
            assert math.isclose(reply["confidence"]["value"], doubt_of(surest.red))
            assert reply["doubtful"]
            self.check_what_is_asked_next(reply, looks, known.rounds, patch, surest)
        self.known[known.id] = replace(known, reply=reply, looks=looks, expires_at_s=self.clock() + TTL_S)

    def check_what_is_asked_next(
        self, reply: dict[str, Any], looks: Sequence[Look], rounds: int, patch: Patch, surest: Look
    ) -> None:
        """Never more looks than are allowed; the same region only if it came small, and once more."""
        asked = reply["roi"]["pixels"]
        if len(looks) == rounds:
            assert (reply["status"], asked) == ("answered", surest.box)
            return
        assert reply["status"] == "needs_patch"
        *before, latest = [look.box for look in looks]
        assert (asked == latest) == (patch.is_small and latest not in before)
        assert asked not in before

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def send_patch_while_the_model_fails(self, data: st.DataObject) -> None:
        """The session waits on, and the same patch is taken afterwards."""
        known = data.draw(st.sampled_from(self.waiting()))
        patch = self.new_patch(known.reply)
        self.engine.failures_left = 1
        assert_problem(self.run(self.put(known.tenant, known.id, patch.data)), 503, "engine_failed")
        known = replace(known, expires_at_s=self.clock() + TTL_S)  # what was tried is renewed
        self.learn_look(known, patch, self.run(self.put(known.tenant, known.id, patch.data)))

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def send_patch_twice_at_once(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.waiting()))
        patch = self.new_patch(known.reply)

        async def both() -> list[httpx.Response]:
            return list(await asyncio.gather(*(self.put(known.tenant, known.id, patch.data) for _ in "12")))

        self.learn_look_of_two(known, patch, self.run(both()))

    def learn_look_of_two(self, known: Known, patch: Patch, responses: Sequence[httpx.Response]) -> None:
        """One is answered; the other gets the same, or is told to wait for it."""
        answered = [response for response in responses if response.status_code == 200]
        self.learn_look(known, patch, answered[0])
        for other in responses:
            if other.status_code == 200:
                assert other.json() == answered[0].json()
            else:
                assert_problem(other, 409, "idempotency_in_progress")

    @rule(tenant=st.sampled_from(TENANTS), colour=COLOURS)
    def leave_while_it_is_inferred_and_ask_again(self, tenant: str, colour: str) -> None:
        """The device is at work when the client goes; its retry gets that work's reply."""
        key = f"left-{self.n_questions}"
        asked = Asked(tenant, key, self.new_question(), GLOBAL_IMAGES[colour])
        response = self.run(self.leave_and_come_back(lambda: self.post(asked)))
        assert response.headers.pop("idempotency-replayed") == "true"
        self.learn(asked, response)

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def leave_while_the_patch_is_inferred_and_send_it_again(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.waiting()))
        patch = self.new_patch(known.reply)
        response = self.run(self.leave_and_come_back(lambda: self.put(known.tenant, known.id, patch.data)))
        self.learn_look(known, patch, response)

    async def leave_and_come_back(self, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """Leave as soon as the device has begun, and send again until it has finished."""
        release, n_calls = threading.Event(), len(self.engine.calls)
        self.engine.before_call = release.wait
        leaving = asyncio.ensure_future(send())
        await until(lambda: len(self.engine.calls) > n_calls)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        self.engine.before_call = None
        release.set()
        async with asyncio.timeout(20):
            while (response := await send()).status_code == 409:
                assert_problem(response, 409, "idempotency_in_progress")
                await asyncio.sleep(0.001)
        return response

    def waiting(self) -> list[Known]:
        return [
            known
            for known in self.known.values()
            if known.waits_for_patch and self.refusal(known.tenant, known) is None
        ]

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        tenant, known = self.draw_known(data)
        response = self.run(self.clients[tenant].delete(f"/v1/inferences/{known.id}"))
        refused = self.refusal(tenant, known)
        if refused:
            assert_problem(response, *refused)
        else:
            assert response.status_code == 204
            self.known[known.id] = replace(known, is_deleted=True)
            # S3: the image and the reply by key are forgotten with it.
            self.images.pop(known.reply["image_id"], None)
            self.replies = {key: held for key, held in self.replies.items() if held[1]["id"] != known.id}

    @rule(seconds=st.sampled_from([1.001, 10.001, TTL_S / 2 + 0.001, TTL_S - 0.499, TTL_S + 0.501]))
    def let_time_pass(self, seconds: float) -> None:
        """Never exactly a time to live in all: Redis holds a value to the end of its last millisecond."""
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        """A server that comes back remembers nothing: every id is unknown, and so is every image and key."""
        self.stop()
        self.start()
        self.forget()

    def forget(self) -> None:
        self.known = {name: replace(known, is_deleted=True) for name, known in self.known.items()}
        self.replies.clear()
        self.images = {name: (owner, self.clock()) for name, (owner, _) in self.images.items()}

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def shut_down_with_work_promised(self, data: st.DataObject) -> None:
        """The signal comes while a patch is awaited: not ready at once, and the patch is still answered."""
        known = data.draw(st.sampled_from(self.waiting()))
        patch = self.new_patch(known.reply)
        for app in self.apps:
            app.state.server.readiness.drain()
        assert_problem(self.run(self.clients[known.tenant].get("/readyz")), 503, "not_ready")
        self.learn_look(known, patch, self.run(self.put(known.tenant, known.id, patch.data)))
        self.restart()

    # What holds at any time.

    @invariant()
    def nothing_is_inferred_twice(self) -> None:
        assert [what for what, times in self.engine.answers.items() if times > 1] == []

    @invariant()
    def everybody_sees_their_own_and_nothing_else(self) -> None:
        """Nothing is lost before its time, nothing is kept after it, and nobody sees another's."""
        for tenant in TENANTS:
            for known in self.known.values():
                response = self.run(self.get(tenant, known.id))
                refused = self.refusal(tenant, known)
                if refused:
                    assert_problem(response, *refused)
                else:
                    assert response.json() == known.reply


class InTurn(httpx.AsyncBaseTransport):
    """Sends each request to the next server: no stage finds the one that the last stage found."""

    def __init__(self, apps: Sequence[FastAPI]) -> None:
        self._transports = itertools.cycle([httpx.ASGITransport(app) for app in apps])

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await next(self._transports).handle_async_request(request)


class ProtocolOfAFleet(Protocol):
    """The same promises of two servers; what a restart of one forgets, the other need not know."""

    n_servers = 2
    remembers_expiry_s = (MARKER_LIVES - 1) * TTL_S

    def __init__(self) -> None:
        self.redis = FakeRedis()
        self.patched = pytest.MonkeyPatch()
        super().__init__()

    def start(self) -> None:
        tell_time_by(self.clock, self.patched)
        super().start()

    def stores(self) -> Stores:
        settings = ServerSettings(session_ttl_s=TTL_S, keys=KEYS)
        return redis_stores(settings, lambda *_: None, client=self.redis.client())

    def teardown(self) -> None:
        super().teardown()
        self.patched.undo()

    @rule()
    def restart(self) -> None:
        """Servers that come back know all that was answered before: nothing is forgotten."""
        answers = self.engine.answers
        self.stop()
        self.start()
        self.engine.answers = answers

    @rule()
    def restart_redis(self) -> None:
        """It is kept in memory alone: the fleet knows nothing any more, and goes on."""
        self.run(self.redis.client().flushall())
        self.forget()


OFFER = {  # of a patch for an inference that asked for none
    "roi": {"pixels": {"left": 0, "top": 0, "right": 100, "bottom": 100}},
    "patch": {"max_width": 336, "max_height": 336, "max_pixels": None},
}


@pytest.mark.parametrize("machine", [Protocol, ProtocolOfAFleet])
def test_no_interleaving_breaks_the_protocol(machine: type[Protocol], is_full: bool) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=200 if is_full else 20 // machine.n_servers,
            stateful_step_count=50 if is_full else 25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
