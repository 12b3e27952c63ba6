"""Thousands of mixed requests to one server: its memory and what it holds must stay flat.

    python -m benchmarks.soak [--requests 10000] [--edges 8]

First stages, pairs, follow-ups by image id, repeats under an idempotency key, deletions, patches that come
too late, bad requests, uploads that break off, clients that leave before the answer. The server is a child
process with the embedded model, a short time to live and a small prefix cache, so that everything that is
held turns over many times. Prints how many of each, samples of the server's metrics and, last, one line of
JSON; exits 1 if a reply was not one of those allowed, if memory grew, or if anything was left at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.instruments.edges import crop, jpeg
from benchmarks.throughput import server_metrics
from secondglance_server.testing import serving

ORIGINAL, UPLOAD = (1024, 768), (224, 168)
HELD = ("sessions", "session_bytes", "stored_images", "stored_image_bytes", "idempotent_replies")
BUSY = ("queue_depth", "requests_in_flight")
QUESTIONS = ("What is written on the red sign?", "How many signs are there?", "Is there a blue sign? " * 8)
MAX_GROWTH = 0.05  # of resident memory, from the second quarter of the requests to the last
SAMPLES = 40


@dataclass(frozen=True, slots=True)
class Sample:
    """The server after `requests` requests."""

    requests: int
    rss_mb: float
    open_files: float
    sessions: float
    prefix_mb: float


@dataclass(slots=True, eq=False)
class Run:
    """What the edges share."""

    url: str
    ttl_s: float
    wanted: int
    sent: int = 0
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=64))
    late: deque[tuple[float, dict[str, Any]]] = field(default_factory=deque)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, what: str, status: int, allowed: Sequence[int]) -> None:
        self.sent += 1
        self.outcomes[f"{what} {status}"] += 1
        if status not in allowed:
            self.wrong.append(f"{what}: {status}")


@dataclass(slots=True, eq=False)
class Edge:
    """One client with its connection and its luck."""

    run: Run
    client: httpx.AsyncClient
    rng: np.random.Generator

    async def post(self, what: str, allowed: Sequence[int], **message: Any) -> dict[str, Any]:
        response = await self.client.post("/v1/inferences", **message)
        self.run.note(what, response.status_code, allowed)
        return dict(response.json())

    def picture(self) -> Image.Image:
        """New to the server; a few pixels, to be enlarged to what is needed of it."""
        return Image.fromarray(self.rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))

    def request(self, **changes: Any) -> dict[str, Any]:
        question = QUESTIONS[self.rng.integers(len(QUESTIONS))]
        return {
            "question": question,
            "image": dict(zip(("width", "height"), ORIGINAL, strict=True)),
            **changes,
        }


def parts(request: dict[str, Any] | str, upload: bytes | None = None) -> dict[str, Any]:
    text = request if isinstance(request, str) else json.dumps(request)
    image = {} if upload is None else {"image": ("image.jpg", upload, "image/jpeg")}
    return {"request": (None, text, "application/json"), **image}


def small(picture: Image.Image) -> bytes:
    return jpeg(picture.resize(UPLOAD, Image.Resampling.BILINEAR))


def region(picture: Image.Image, reply: dict[str, Any]) -> bytes:
    original = picture.resize(ORIGINAL, Image.Resampling.NEAREST)
    return crop(original, reply["roi"]["pixels"], reply["patch"])


async def first_stage(edge: Edge) -> None:
    reply = await edge.post("first", [200], files=parts(edge.request(), small(edge.picture())))
    edge.run.recent.append(reply)


async def pair(edge: Edge) -> None:
    picture, asked_at = edge.picture(), time.monotonic()
    reply = await edge.post("first", [200], files=parts(edge.request(mode="always"), small(picture)))
    if reply["status"] == "needs_patch":
        patch = region(picture, reply)
        # on a machine this slow the session may be over before its patch comes
        is_slow = time.monotonic() - asked_at > edge.run.ttl_s / 2
        await send_patch(edge, "patch", reply, patch, [200, 410] if is_slow else [200])
        edge.run.recent.append(reply)


async def late_pair(edge: Edge) -> None:
    """Asks for a region and forgets about it; a patch for an older one, now expired, is refused."""
    run, picture = edge.run, edge.picture()
    reply = await edge.post("first", [200], files=parts(edge.request(mode="always"), small(picture)))
    if reply["status"] == "needs_patch":
        run.late.append((time.monotonic(), reply))
    if run.late and time.monotonic() - run.late[0][0] > run.ttl_s + 0.5:
        _, old = run.late.popleft()
        await send_patch(edge, "late patch", old, region(picture, old), [410])


async def send_patch(
    edge: Edge, what: str, reply: dict[str, Any], patch: bytes, allowed: Sequence[int]
) -> None:
    headers = {"Content-Type": "image/jpeg"}
    response = await edge.client.put(f"/v1/inferences/{reply['id']}/patch", content=patch, headers=headers)
    edge.run.note(what, response.status_code, allowed)


async def follow_up(edge: Edge) -> None:
    if edge.run.recent:
        known = edge.run.recent[edge.rng.integers(len(edge.run.recent))]
        request = edge.request(image_id=known["image_id"], mode="answer_only")
        await edge.post("follow-up", [200, 410], files=parts(request))


async def repeated(edge: Edge) -> None:
    upload, key = small(edge.picture()), str(edge.rng.integers(1 << 60))
    message = parts(edge.request(), upload)
    for _ in range(2):
        await edge.post("repeated", [200], files=message, headers={"Idempotency-Key": key})


async def look_and_delete(edge: Edge) -> None:
    if edge.run.recent:
        known = edge.run.recent.pop() if edge.rng.random() < 0.5 else edge.run.recent.popleft()
        path = f"/v1/inferences/{known['id']}"
        looked = await edge.client.get(path)
        edge.run.note("look", looked.status_code, [200, 410])
        deleted = await edge.client.delete(path)
        edge.run.note("delete", deleted.status_code, [204, 410])


async def bad(edge: Edge) -> None:
    upload = small(edge.picture())
    kind = int(edge.rng.integers(6))
    if kind == 0:
        await edge.post("bad json", [400, 422], files=parts("{", upload))
    elif kind == 1:
        await edge.post("broken image", [400, 422], files=parts(edge.request(), upload[:200]))
    elif kind == 2:
        await edge.post("no image", [415], files=parts(edge.request(), b"GIF89a" + upload))
    elif kind == 3:
        await edge.post("unknown field", [400, 422], files=parts(edge.request(mood="good"), upload))
    elif kind == 4:
        await send_patch(edge, "unknown id", {"id": "inf_nobody"}, upload, [404])
    else:
        await edge.post("too large", [413], content=bytes(5 << 20), headers={"Content-Type": "x/y"})


async def broken_off(edge: Edge) -> None:
    """Half an upload, or a whole one whose sender does not wait for the answer."""
    body = edge.client.build_request(
        "POST", "/v1/inferences", files=parts(edge.request(), small(edge.picture()))
    )
    payload = body.read()
    head = f"POST /v1/inferences HTTP/1.1\r\nHost: soak\r\nContent-Type: {body.headers['content-type']}\r\n"
    head += f"Content-Length: {len(payload)}\r\n\r\n"
    share = float(edge.rng.choice([0.0, 0.5, 1.0]))
    _, writer = await asyncio.open_connection(edge.client.base_url.host, edge.client.base_url.port)
    writer.write(head.encode() + payload[: int(share * len(payload))])
    await writer.drain()
    await asyncio.sleep(float(edge.rng.uniform(0, 0.05)))
    writer.close()
    edge.run.note("broken off" if share < 1 else "left", 0, [0])


ACTIONS: tuple[tuple[Callable[[Edge], Awaitable[None]], float], ...] = (
    (first_stage, 0.2),
    (pair, 0.15),
    (late_pair, 0.06),
    (follow_up, 0.22),
    (repeated, 0.05),
    (look_and_delete, 0.1),
    (bad, 0.14),
    (broken_off, 0.08),
)


async def soak(run: Run, edges: int) -> list[Sample]:
    samples: list[Sample] = [take(run)]
    await asyncio.gather(*(act(run, number, samples) for number in range(edges)))
    return samples


async def act(run: Run, number: int, samples: list[Sample]) -> None:
    rng = np.random.default_rng(number)
    share = [share for _, share in ACTIONS]
    async with httpx.AsyncClient(base_url=run.url, timeout=300) as client:
        edge = Edge(run, client, rng)
        while run.sent < run.wanted:
            action, _ = ACTIONS[rng.choice(len(ACTIONS), p=share)]
            await action(edge)
            if run.sent >= samples[-1].requests + run.wanted / SAMPLES:
                samples.append(take(run))


def take(run: Run) -> Sample:
    now = server_metrics(run.url)
    return Sample(
        requests=run.sent,
        rss_mb=now["process_resident_memory_bytes"] / 2**20,
        open_files=now["process_open_fds"],
        sessions=now["secondglance_sessions"],
        prefix_mb=now["secondglance_prefix_cache_bytes"] / 2**20,
    )


def growth(samples: Sequence[Sample]) -> float:
    """Of resident memory, from the second quarter to the last, as a share. The first quarter fills caches."""
    quarter = len(samples) // 4
    before = statistics.fmean(s.rss_mb for s in samples[quarter : 2 * quarter])
    after = statistics.fmean(s.rss_mb for s in samples[-quarter:])
    return after / before - 1


def left_over(url: str, ttl_s: float, patience_s: float = 60.0) -> dict[str, float]:
    """What the server still holds once the time to live is over."""
    deadline = time.monotonic() + ttl_s + patience_s
    while True:
        now = server_metrics(url)
        held = {name: now[f"secondglance_{name}"] for name in (*HELD, *BUSY)}
        held["requests_in_flight"] -= 1  # this one
        left = {name: value for name, value in held.items() if value}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def show(run: Run, samples: Sequence[Sample]) -> None:
    print("requests   rss MB  files  sessions  prefixes MB")
    for s in samples:
        print(f"{s.requests:8} {s.rss_mb:8.1f} {s.open_files:6.0f} {s.sessions:9.0f} {s.prefix_mb:12.1f}")
    for what, count in sorted(run.outcomes.items()):
        print(f"  {what:20} {count}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--edges", type=int, default=8)
    parser.add_argument("--ttl-s", type=float, default=10.0, help="the server's session_ttl_s")
    arguments = parser.parse_args()
    started = time.monotonic()
    with serving(environment=environment(arguments.ttl_s)) as url:
        run = Run(url, arguments.ttl_s, arguments.requests)
        samples = asyncio.run(soak(run, arguments.edges))
        left = left_over(url, arguments.ttl_s)
    show(run, samples)
    grown = growth(samples)
    is_well = not run.wrong and not left and grown <= MAX_GROWTH
    for complaint in run.wrong[:20]:
        print("NOT ALLOWED", complaint)
    facts = {
        "requests": run.sent,
        "seconds": round(time.monotonic() - started, 1),
        "rss_mb": [round(samples[len(samples) * i // 4 - (i > 0)].rss_mb, 1) for i in range(5)],
        "rss_growth": round(grown, 4),
        "most_sessions": max(s.sessions for s in samples),
        "left_over": left,
        "not_allowed": len(run.wrong),
        "is_well": is_well,
    }
    print(json.dumps(facts))
    return 0 if is_well else 1


def environment(ttl_s: float) -> dict[str, str]:
    """Everything that is held turns over often."""
    prefix = "SECONDGLANCE_SERVER_"
    return {
        f"{prefix}SESSION_TTL_S": str(ttl_s),
        f"{prefix}PREFIX_CACHE_BYTES": str(64 << 20),
        f"{prefix}MAX_DECODED_IMAGE_BYTES": str(8 << 20),
        f"{prefix}LOG_LEVEL": "error",
    }


if __name__ == "__main__":
    sys.exit(main())
