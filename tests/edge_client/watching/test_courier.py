"""Answers wait on disk until they are taken: at least once each, through outages of hours and restarts."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondglance.retry import RetryPolicy
from secondglance.watching.answers.courier import Courier
from secondglance.watching.answers.delivery import Command, Delivery, DeliveryError, Webhook
from secondglance.watching.answers.outbox import Outbox
from secondglance.watching.clock import Uptime
from secondglance.watching.state import WatchState
from secondglance.watching.watch import WatchPlan
from tests.edge_client.watching.running import RunningWatch, until

POLICY = RetryPolicy(first_wait_s=0.5, max_wait_s=8)
QUICK = RetryPolicy(first_wait_s=0.001, max_wait_s=0.002)


def record(number: int) -> dict[str, Any]:
    return {"id": str(number), "name": f"{number}.jpg", "question": "What?", "answer": "42"}


class Hook:
    """Takes what it likes; `fault` says what becomes of an answer, None that it is taken."""

    name = "the hook"

    def __init__(self, fault: Callable[[str], DeliveryError | None]) -> None:
        self._fault = fault
        self.tried: list[str] = []
        self.taken: list[str] = []

    def deliver(self, record: Mapping[str, Any]) -> None:
        self.tried.append(record["id"])
        error = self._fault(record["id"])
        if error is not None:
            raise error
        self.taken.append(record["id"])


class Board:
    """An uptime that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> Uptime:
        return Uptime("boot", self.now)


class Desk:
    """A courier that is started, killed and started again on one state file."""

    def __init__(self, folder: Path, hook: Delivery, board: Board, *, max_age_s: float = 24 * 3600.0) -> None:
        self.folder, self.hook, self.board, self.max_age_s = folder, hook, board, max_age_s
        self.said: list[str] = []
        self.dead = folder / "dead.jsonl"
        self.open()

    def open(self) -> None:
        self.state = WatchState(self.folder / "x.sqlite", uptime=self.board)
        self.outbox = Outbox(self.state)
        self.courier = Courier(
            self.outbox,
            {"webhook": self.hook},
            policy=POLICY,
            max_age_s=self.max_age_s,
            dead_letters=self.dead,
            warn=self.said.append,
            now=self.state.age,
        )
        self.courier.start()

    def restart(self) -> None:
        self.state.close()
        self.open()

    def pass_time(self, seconds: float) -> None:
        """Let the courier's thread look about as often as it does."""
        end = self.board.now + seconds
        while self.board.now < end:
            self.board.now += 2.0
            self.courier.deliver_due()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(fault: Callable[[str], DeliveryError | None], **options: Any) -> Desk:
        board = Board()
        desks.append(Desk(tmp_path, Hook(fault), board, **options))
        return desks[-1]

    yield make
    for each in desks:
        each.state.close()


FAULTS = {
    "refused": DeliveryError("connection refused"),
    "500": DeliveryError("the hook answers 500"),
    "429": DeliveryError("the hook answers 429", retry_after_s=90),
    "exit code": DeliveryError("it ended with exit code 1", concerns_all=False),
    "unexpected": RuntimeError("anything else"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("restarts", [0, 4])
def test_e5_an_hour_without_a_hook_loses_nothing(
    desk: Callable[..., Desk], fault: str, restarts: int
) -> None:
    """E5: three attempts within two seconds, then the answer was lost. An hour passes on the test's clock."""
    there = False
    made = desk(lambda _: None if there else FAULTS[fault])
    hook = made.hook
    assert isinstance(hook, Hook)
    for number in range(20):
        made.courier.put(record(number))
        made.pass_time(180)
        if restarts and number % 5 == 4:
            made.restart()
    assert hook.taken == []
    attempts = len(hook.tried)
    assert attempts < 1500, "not without pause"
    lines = [line for line in made.said if "not handed on" in line]
    assert 1 <= len(lines) <= (20 if fault in ("exit code", "unexpected") else 1) + restarts
    there = True
    made.pass_time(900)
    assert sorted(hook.taken, key=int) == [str(number) for number in range(20)]
    assert len(made.outbox) == 0
    assert not made.dead.exists()


def test_e5_one_answer_that_is_refused_does_not_hold_the_others_up(desk: Callable[..., Desk]) -> None:
    """E5: a hook that says 400 to one of them; it ends among the dead letters, which is said."""
    made = desk(
        lambda key: DeliveryError("answers 400", concerns_all=False) if key == "3" else None, max_age_s=7200
    )
    for number in range(10):
        made.courier.put(record(number))
    made.pass_time(10)
    hook = made.hook
    assert isinstance(hook, Hook)
    assert hook.taken == [str(number) for number in range(10) if number != 3]
    made.pass_time(2 * 3600 + 700)
    assert len(made.outbox) == 0
    assert made.courier.given_up == 1
    (letter,) = map(json.loads, made.dead.read_text().splitlines())
    assert letter["id"] == "3"
    assert str(made.dead) in made.said[-1]
    assert hook.tried.count("3") < 40


def test_e5_a_retry_after_is_kept(desk: Callable[..., Desk]) -> None:
    """E5: 429 with Retry-After: 300; nothing is sent before, whatever else waits."""
    made = desk(lambda _: DeliveryError("answers 429", retry_after_s=300))
    hook = made.hook
    assert isinstance(hook, Hook)
    for number in range(5):
        made.courier.put(record(number))
    made.pass_time(290)
    assert hook.tried == ["0"]
    made.pass_time(20)
    assert hook.tried == ["0", "0"]


@pytest.mark.parametrize("seed", range(5))
def test_e5_at_least_once_whatever_happens(desk: Callable[..., Desk], seed: int) -> None:
    """E5: hooks that fail at random, kills between delivering and noting it: none lost, few twice."""
    dice = random.Random(seed)
    faults = [*FAULTS.values(), None, None, None]
    made = desk(lambda _: dice.choice(faults))
    hook = made.hook
    assert isinstance(hook, Hook)
    kills = 0
    for number in range(60):
        made.courier.put(record(number))
        made.pass_time(dice.choice([2, 30, 300]))
        if dice.random() < 0.2:
            remove = made.outbox.remove

            def killed(parcel: Any, remove: Any = remove) -> None:
                raise KeyboardInterrupt

            made.outbox.remove = killed  # type: ignore[method-assign]
            made.courier.put(record(1000 + kills))
            with pytest.raises(KeyboardInterrupt):
                made.pass_time(3000)
            kills += 1
            made.restart()
    faults[:] = [None]
    made.pass_time(1300)
    counts = Counter(hook.taken)
    assert counts.keys() == {*map(str, range(60)), *map(str, range(1000, 1000 + kills))}
    assert counts.total() <= len(counts) + kills
    assert len(made.outbox) == 0


class Server:
    """A web hook on loopback whose replies are given by `reply(path)`: status and headers."""

    def __init__(self, reply: Callable[[str], tuple[int, dict[str, str]]]) -> None:
        self.bodies: list[Any] = []
        self.paths: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, headers = reply(self.path)
                if 200 <= status < 300:
                    server.bodies.append(body)
                server.paths.append(self.path)
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def serve_hook() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(reply: Callable[[str], tuple[int, dict[str, str]]]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("status", [307, 308])
def test_e5_redirects_that_keep_the_post_are_followed_within_the_host(
    serve_hook: Callable[..., Server], status: int
) -> None:
    served = serve_hook(lambda path: (200, {}) if path == "/new" else (status, {"Location": "/new"}))
    with Webhook(f"{served.url}/hook", policy=QUICK) as hook:
        hook.deliver(record(1))
    assert served.bodies == [record(1)]


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (301, "/new"),
        (302, "/login"),
        (303, "/new"),
        (307, "http://192.0.2.1/"),
        (308, "/hook"),
        (302, "::bad["),
    ],
)
def test_e5_other_redirects_mean_not_taken(
    serve_hook: Callable[..., Server], status: int, location: str
) -> None:
    """E5: a login page, another host, a ring: the answer waits."""
    served = serve_hook(lambda path: (status, {"Location": location}))
    with Webhook(f"{served.url}/hook", policy=QUICK) as hook, pytest.raises(DeliveryError):
        hook.deliver(record(1))
    assert served.bodies == []
    assert set(served.paths) == {"/hook"}


@pytest.mark.parametrize(
    "value", ["9" * 400, "-5", "soon", "Wed, 21 Oct 99999 07:28:00 GMT", "1e5", "", "\xb2"]
)
def test_e5_a_retry_after_of_nonsense_is_no_traceback(serve_hook: Callable[..., Server], value: str) -> None:
    served = serve_hook(lambda path: (503, {"Retry-After": value}))
    with Webhook(f"{served.url}/hook", policy=QUICK) as hook, pytest.raises(DeliveryError, match="503"):
        hook.deliver(record(1))


def test_e5_the_whole_watch_keeps_its_word_through_a_restart(
    serve_hook: Callable[..., Server], tmp_path: Path, pictures: Any
) -> None:
    """E5: pictures are answered while the hook is down, the watch ends, and the next one hands all on."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(5):
        (inbox / f"{number}.jpg").write_bytes(pictures.photo((32, 24), seed=number))
    replies = {"now": 500}
    served = serve_hook(lambda path: (replies["now"], {}))
    plan = WatchPlan(("What?", "Where?"), inbox, settle_s=0.01, takes_existing=True)
    with RunningWatch(
        plan, tmp_path / "s", targets={"webhook": Webhook(served.url, policy=QUICK)}
    ) as running:
        until(lambda: len(running.answered_names) == 10)
        until(lambda: running.said != [])
        assert running.watch.undelivered == 10
    replies["now"] = 204
    with RunningWatch(
        plan, tmp_path / "s", targets={"webhook": Webhook(served.url, policy=QUICK)}
    ) as running:
        until(lambda: running.watch.undelivered == 0)
        assert running.answered_names == [], "nothing is asked again"
    assert Counter(body["name"] for body in served.bodies) == {str(inbox / f"{n}.jpg"): 2 for n in range(5)}


def test_e5_a_program_that_hangs_does_not_stop_the_asking(tmp_path: Path, pictures: Any) -> None:
    """E5: and it is ended."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(3):
        (inbox / f"{number}.jpg").write_bytes(pictures.photo((32, 24), seed=number))
    script = tmp_path / "hang.py"
    script.write_text("import time; time.sleep(600)")
    plan = WatchPlan(("What?",), inbox, settle_s=0.01, takes_existing=True)
    command = Command(f"{sys.executable} {script}", timeout_s=1.5)
    with RunningWatch(plan, tmp_path / "s", targets={"cmd": command}) as running:
        until(lambda: len(running.answered_names) == 3, 10)
        until(lambda: any("timed out" in line for line in running.said))
        assert running.watch.undelivered == 3


def test_e8_what_a_hook_is_told_by_is_not_shown(serve_hook: Callable[..., Server]) -> None:
    """E8: passwords and tokens of the hook's address, in errors of any kind."""
    served = serve_hook(lambda path: (404, {}))
    address = served.url.replace("://", "://user:s3cret@") + "/T0k3n/hook?key=t0psecret"
    with Webhook(address, policy=QUICK) as hook, pytest.raises(DeliveryError) as caught:
        hook.deliver(record(1))
    with (
        Webhook("http://user:s3cret@127.0.0.1:9/T0k3n?key=t0psecret", policy=QUICK) as hook,
        pytest.raises(DeliveryError) as refused,
    ):
        hook.deliver(record(1))
    for text in (str(caught.value), str(refused.value)):
        assert not any(secret in text for secret in ("s3cret", "T0k3n", "t0psecret"))
    assert httpx.URL(address).password == "s3cret"
