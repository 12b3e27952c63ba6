"""`batch --resume`, killed again and again without warning, asks about each picture once.

The short version runs with the other tests; `make edge-endurance` runs the long one.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from secondglance_server.engine.fake import FakeScript
from tests.edge_client.counting_engine import CountingEngine

pytestmark = pytest.mark.live

CONCURRENCY = 4
DEADLINE_S = 180.0


def start(photos: Path, out: Path, url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "secondglance.cli", "batch", str(photos), "-q", "What?", "--url", url]
    options = ["--out", str(out), "--resume", "--concurrency", str(CONCURRENCY)]
    return subprocess.Popen([*command, *options], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    _, errors = process.communicate(timeout=DEADLINE_S)
    return process.returncode, errors


def results_in(out: Path) -> list[dict[str, Any]]:
    """Whole lines only: a killed process may have left a torn one."""
    lines = out.read_bytes().splitlines(keepends=True) if out.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def kill_somewhere(
    process: subprocess.Popen[bytes], engine: CountingEngine, dice: random.Random, *, pictures_a_kill: int
) -> bool:
    """Kill after a few more questions, or before the first; False if all was done before that.

    A few questions later the model stands still until the kill is done, so that no load of the machine lets
    the pictures run out before the kills.
    """
    goal = engine.asked.total() + dice.randint(0, pictures_a_kill - 2)
    hold_at, is_killed = goal + dice.randint(1, 4), threading.Event()
    engine.before_call = lambda: engine.asked.total() >= hold_at and is_killed.wait(DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while engine.asked.total() < goal and process.poll() is None:
        assert time.monotonic() < deadline, "nothing is asked any more"
        time.sleep(0.001)
    time.sleep(dice.uniform(0, 0.12))
    process.kill()
    code = process.wait()
    engine.before_call = None
    is_killed.set()
    return code == -signal.SIGKILL


def test_kills_lose_no_result_and_ask_nothing_twice(
    serve: Any, pictures: Any, tmp_path: Path, is_full: bool
) -> None:
    """All but what was in flight at a kill; of that, only what the server had not answered yet."""
    n_pictures, kills = (200, 50) if is_full else (40, 5)
    photos, out = tmp_path / "photos", tmp_path / "results.jsonl"
    photos.mkdir()
    for number in range(n_pictures):
        (photos / f"{number:03}.jpg").write_bytes(pictures.photo((400, 300), seed=number))
    engine = CountingEngine(FakeScript(delay_s=0.05))
    url = serve(engine).url
    dice = random.Random(8)
    for _ in range(kills):
        process = start(photos, out, url)
        answered_before = {record["answer"] for record in results_in(out)}
        asked_before = engine.asked.copy()
        assert kill_somewhere(process, engine, dice, pictures_a_kill=n_pictures // kills), (
            "there are enough pictures for every kill"
        )
        process.communicate()
        again = {key for key, count in asked_before.items() if engine.asked[key] > count}
        assert not again & answered_before, "what is in the results is not asked about again"
        assert len(again) <= CONCURRENCY, "no more than what was in flight at the last kill"
    engine.script = FakeScript()
    assert finish(start(photos, out, url)) == (0, b"")
    records = results_in(out)
    assert out.read_bytes().count(b"\n") == len(records) == n_pictures
    assert {record["path"] for record in records} == set(map(str, photos.iterdir()))
    assert {record["answer"] for record in records} == set(engine.asked)
    assert len(engine.asked) == n_pictures
    repeated = engine.asked.total() - n_pictures
    assert repeated <= kills * CONCURRENCY
    metrics = httpx.get(f"{url}/metrics").text
    replays = [line for line in metrics.splitlines() if 'outcome="replayed",stage="1"' in line]
    print(f"{kills} kills: {repeated} of {n_pictures} pictures asked again, {replays}")
    total = engine.asked.total()
    assert finish(start(photos, out, url)) == (0, b"")
    assert engine.asked.total() == total, "a run after the last sends nothing"
