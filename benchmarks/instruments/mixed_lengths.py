"""How long short answers take beside a long one, next to how long they take alone.

    python -m benchmarks.instruments.mixed_lengths [--model NAME] [--rounds 3] [--short 6] [--clock cpu|wall]

A short answer has 4 tokens, the long one 120. Each short one asks about a picture that is new to the engine,
behind its queue, without HTTP. Rounds alternate between both, so that a busy machine is busy for both. By
processor time, a latency is what the process has worked in between: what passes on an idle core. Goal: the
95th percentile beside a long answer is at most 1.5 times the one alone. Prints, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.instruments.models import MODELS
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, Picture
from secondglance_server.inference.device_queue import DeviceQueue

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
QUESTION = "What number is on the red sign?"
SHORT_TOKENS, LONG_TOKENS = 4, 120
GOAL = 1.5


def requests(engine: PrefixEngine) -> Iterator[AnswerRequest]:
    """Short ones, each about noise of its own."""
    budget, rng = engine.info.image, np.random.default_rng(0)
    shape = (budget.max_height * 3 // 4, budget.max_width, 3)
    for number in itertools.count():
        picture = Picture(str(number), rng.integers(0, 256, shape, dtype=np.uint8))
        yield AnswerRequest(picture, QUESTION, max_new_tokens=SHORT_TOKENS)


async def measure(
    engine: PrefixEngine, rounds: int, count: int, now: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the milliseconds of every short answer, `count` in each half of a round."""
    engine.adapter.end_ids = frozenset({-1})  # random weights end at random places
    found: dict[str, list[float]] = {"alone": [], "beside": []}
    queue = DeviceQueue(max_queue=8)
    await asyncio.wrap_future(queue.start(lambda: engine))
    short = requests(engine)
    long = next(short)
    long = AnswerRequest(long.picture, long.question, max_new_tokens=LONG_TOKENS)

    async def one_ms() -> float:
        request = next(short)
        started = now()
        await queue.answer(request)
        return 1e3 * (now() - started)

    await one_ms()  # warms up
    for _ in range(rounds):
        found["alone"] += [await one_ms() for _ in range(count)]
        has_begun = asyncio.Event()
        beside = asyncio.create_task(queue.answer(long, on_token=lambda _, begun=has_begun: begun.set()))
        await has_begun.wait()
        for _ in range(count):
            ms = await one_ms()
            if beside.done():
                break  # this one was not beside it to its end
            found["beside"].append(ms)
        await beside
    await asyncio.to_thread(queue.close)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="llava-100m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", type=int, default=6, help="short answers in each half of a round")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    engine = MODELS[arguments.model].build()
    found = asyncio.run(measure(engine, arguments.rounds, arguments.short, CLOCKS[arguments.clock]))
    document: dict[str, Any] = {"benchmark": "mixed_lengths", "model": arguments.model}
    document |= {"clock": arguments.clock, "cores": os.cpu_count(), "machine": platform.machine()}
    for kind, times in found.items():
        p50, p95 = (round(float(q), 1) for q in np.quantile(times, (0.5, 0.95)))
        print(f"{SHORT_TOKENS} tokens {kind:7} p50 {p50:8.1f} ms   p95 {p95:8.1f} ms   of {len(times)}")
        document[f"{kind}_ms"] = {"p50": p50, "p95": p95}
    document["p95_ratio"] = round(document["beside_ms"]["p95"] / document["alone_ms"]["p95"], 3)
    verdict = "as wanted" if document["p95_ratio"] <= GOAL else "NOT as wanted"
    print(f"p95 beside {LONG_TOKENS} tokens / alone: {document['p95_ratio']}; goal <= {GOAL}: {verdict}")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
