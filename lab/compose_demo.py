"""`make compose-demo`: one question across two containers, its bytes at four layers, a server that dies.

The images are built already. The answer comes from `secondglance ask` in the edge's own image; this program
reads the counters around it and says how the layers fit together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.places.compose import PROJECT, Compose, Container, composed
from lab.places.counters import Counters, parsed, reading
from lab.relay.links import BASE_PORT

PHOTO = "/photos/photo.jpg"
_SENT = "/tmp/sent"  # in the container's tmpfs
_AFTER_STAGE_ONE = 400  # bytes of the patch's request that pass before the link stalls
_PATIENCE_S = 60.0


def run(say: Callable[[str], None]) -> None:
    """Run the demonstration. Raises LabError if anything is not as documented."""
    truth = json.loads(Path("examples/photo.json").read_text())
    with composed() as compose:
        compose("up", "--no-build", "-d", "server")
        server = compose.container("server")
        server.wait_until_healthy()
        computed_s = server.processor_s()
        edge = compose.run("edge", "600", entrypoint="sleep", name="edge")
        ready = f"{server.seconds_to_healthy():.1f} s after its start, {computed_s:.1f} s of processor time"
        say(f"both are up; the server was ready {ready}")
        for image in ("second-glance-server", "second-glance-edge"):
            say(f"{image}: {_added_bytes(compose, image) / 1e6:,.0f} MB on top of its base")
        reply = _ask(edge, truth["question"], say)
        if reply["stage"] != 2 or reply["answer"] != truth["answer"]:
            raise LabError(
                f"stage {reply['stage']} answered {reply['answer']!r}, expected {truth['answer']!r}"
            )
        _kill_in_the_middle(compose, truth["question"], reply, say)
    say("everything is down")


def _ask(edge: Container, question: str, say: Callable[[str], None]) -> dict[str, Any]:
    inside, outside = _inside(edge), edge.engine_counters()
    asked = edge.run("secondglance", "ask", PHOTO, question, "--json", "--save-sent", _SENT)
    reply: dict[str, Any] = json.loads(asked.checked())
    inside, outside = _inside(edge) - inside, edge.engine_counters() - outside
    bodies = edge.run("sh", "-c", f"cat {_SENT}/*-body | wc -c").checked()
    receipt = reply["receipt"]
    say(f"{question} {reply['draft_answer']!r}, then {reply['answer']!r} (stage {reply['stage']})")
    say(f"{'':24}{'up':>10}{'down':>10}")
    say(f"{'bodies':24}{int(bodies):>10,}")
    say(f"{'HTTP, at the client':24}{receipt['uplink_bytes']:>10,}{receipt['downlink_bytes']:>10,}")
    say(f"{'interface of the edge':24}{inside.tx_bytes:>10,}{inside.rx_bytes:>10,}")
    say(f"{'Docker Engine API':24}{outside.tx_bytes:>10,}{outside.rx_bytes:>10,}")
    say("segmentation offload is as the engine left it: an interface counts fewer headers than a real wire")
    say(f"the original has {receipt['original_bytes']:,} bytes; {receipt['elapsed_ms']:.0f} ms to the answer")
    return reply


def _inside(edge: Container) -> Counters:
    return parsed(edge.run(*reading("eth0")).checked())


def _added_bytes(compose: Compose, image: str) -> int:
    base = compose.client.images.get("python:3.11-slim-bookworm").attrs["Size"]
    return int(compose.client.images.get(image).attrs["Size"]) - int(base)


def _kill_in_the_middle(
    compose: Compose, question: str, reply: dict[str, Any], say: Callable[[str], None]
) -> None:
    """The link holds the patch back until the server is dead: the edge must return the draft, and exit 0."""
    receipt = reply["receipt"]
    in_the_patch = receipt["uplink_bytes"] - receipt["stage2"]["uplink_bytes"] + _AFTER_STAGE_ONE
    relay = ("-m", "lab", "relay", "--listen", "0.0.0.0", "--to", "server:8000")
    link = compose.run(
        "link", *relay, "--stall-up-after", str(in_the_patch), entrypoint="python", name="link"
    )
    edge = Container(compose.client.containers.get(f"{PROJECT}-edge"))
    url = {"SECONDGLANCE_URL": f"http://{link.raw.name}:{BASE_PORT}"}
    before = _inside(edge).tx_bytes
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(edge.run, "secondglance", "ask", PHOTO, question, "--json", environment=url)
        deadline = time.monotonic() + _PATIENCE_S
        while _inside(edge).tx_bytes - before < receipt["uplink_bytes"]:
            if asking.done() or time.monotonic() > deadline:
                raise LabError(f"no patch was held back: {asking.result()}")
            time.sleep(0.1)
        compose.container("server").raw.kill()
        asked = asking.result()
    draft: dict[str, Any] = json.loads(asked.checked())
    if draft["answer"] != reply["draft_answer"] or draft["stage"] != 1 or not draft["degraded"]:
        raise LabError(f"expected the draft {reply['draft_answer']!r}, got {asked.stdout}")
    say(f"server killed while the patch was on its way: {draft['answer']!r}, exit code {asked.exit_code},")
    say(f"  degraded: {draft['degraded']}, retries: {draft['receipt']['retries']}")
