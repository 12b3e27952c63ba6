"""What a long answer costs the short ones beside it, and how soon a stream begins; over HTTP, either engine.

    python -m benchmarks.instruments.beside_long [--engine prefix|vllm] [--model NAME] [--short 12]

A short answer has 4 tokens, the long one 120; each is about a picture of its own. Short ones are asked one
after the other, alone and beside long ones in turn, so that a busy machine is busy for both. By processor
time, a latency is what the server and all its processes have worked in between: what passes on an idle core.
Goal: the 95th percentile beside a long answer is at most 1.5 times the one alone.

The first event of a stream is compared with the first token by the server's own clock (queue, decoding,
prompt). Goal: at most 1.2 times. vLLM's Python is in SECONDGLANCE_VLLM_PYTHON. Prints, last, one line of
JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from benchmarks.instruments.edges import jpeg
from benchmarks.instruments.models import MODELS
from benchmarks.instruments.processes import ServerProcess, server_process
from secondglance_protocol.events import EVENT_STREAM, EventReader
from secondglance_server.engine.loader import EMBEDDED

QUESTION = "What number is on the red sign?"
SHORT_TOKENS, LONG_TOKENS = 4, 120
GOAL, FIRST_EVENT_GOAL = 1.5, 1.2
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class BesideLong:
    """95th percentiles of short answers in milliseconds, alone and beside a long one, by two clocks.

    `first_event`: the median of first event / first token. `long_tokens`: as the model allows. `beside`:
    short answers that were beside a long one to their end.
    """

    wall_ms: tuple[float, float]
    cpu_ms: tuple[float, float]
    first_event: float
    long_tokens: int
    beside: int

    @property
    def cpu_ratio(self) -> float:
        return self.cpu_ms[1] / self.cpu_ms[0]


class _Asker:
    """Asks about pictures that no cache knows."""

    def __init__(self, client: httpx.AsyncClient, cpu_s: Callable[[], float]) -> None:
        self._client = client
        self._cpu_s = cpu_s
        self._pictures = _noise()

    def _parts(self, tokens: int) -> dict[str, Any]:
        size = {"width": 1600, "height": 1200}
        request = {"question": QUESTION, "image": size, "max_new_tokens": tokens, "mode": "answer_only"}
        return {
            "request": (None, json.dumps(request), "application/json"),
            "image": ("image.jpg", next(self._pictures), "image/jpeg"),
        }

    async def short(self) -> tuple[float, float]:
        """Return the milliseconds of a short answer, by both clocks."""
        parts = self._parts(SHORT_TOKENS)
        began, cpu = time.perf_counter(), self._cpu_s()
        (await self._client.post("/v1/inferences", files=parts)).raise_for_status()
        return 1e3 * (time.perf_counter() - began), 1e3 * (self._cpu_s() - cpu)

    async def stream(self, tokens: int, has_begun: asyncio.Event) -> float:
        """Read a streamed answer; return first event / first token by the server's clock."""
        parts, began = self._parts(tokens), time.perf_counter()
        request = self._client.build_request(
            "POST", "/v1/inferences", files=parts, headers={"Accept": EVENT_STREAM}
        )
        response = await self._client.send(request, stream=True)
        response.raise_for_status()
        reader, first_ms, last = EventReader(), 0.0, None
        async for data in response.aiter_bytes():
            first_ms = first_ms or 1e3 * (time.perf_counter() - began)
            has_begun.set()
            last = (reader.feed(data) or [last])[-1]
        await response.aclose()
        assert last is not None, "a stream has events"
        timing = json.loads(last.data)["timing_ms"]
        return first_ms / (timing["queue"] + timing["decode_image"] + timing["prefill"])


def _noise() -> Iterator[bytes]:
    for number in itertools.count():
        rng = np.random.default_rng(number)
        yield jpeg(Image.fromarray(rng.integers(0, 256, (252, 336, 3), dtype=np.uint8)))


def beside_long(server: ServerProcess, n_short: int) -> BesideLong | None:
    """Measure a server that nobody else asks; `n_short` answers in each half of three rounds.

    None for a model whose longest answers are over before a short one is.
    """
    most = int(httpx.get(f"{server.url}/v1/model").json()["limits"]["max_new_tokens"])
    long_tokens = min(LONG_TOKENS, most)

    async def measure() -> tuple[list[tuple[float, float]], list[tuple[float, float]], list[float]]:
        alone: list[tuple[float, float]] = []
        beside: list[tuple[float, float]] = []
        async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
            asker = _Asker(client, server.cpu_seconds)
            await asker.short()  # warms up
            ratios = [await asker.stream(SHORT_TOKENS, asyncio.Event()) for _ in range(n_short)]
            for _ in range(_ROUNDS):
                alone += [await asker.short() for _ in range(n_short)]
                has_begun = asyncio.Event()
                long = asyncio.create_task(asker.stream(long_tokens, has_begun))
                await has_begun.wait()
                for _ in range(n_short):
                    took = await asker.short()
                    if long.done():
                        break  # this one was not beside it to its end
                    beside.append(took)
                await long
        return alone, beside, ratios

    alone, beside, ratios = asyncio.run(measure())
    if not beside:
        return None
    p95 = [
        [round(float(np.quantile(each, 0.95)), 1) for each in zip(*half, strict=True)]
        for half in (alone, beside)
    ]
    (wall_alone, cpu_alone), (wall_beside, cpu_beside) = p95
    ratio = round(float(np.median(ratios)), 3)
    return BesideLong(
        (wall_alone, wall_beside), (cpu_alone, cpu_beside), ratio, long_tokens, beside=len(beside)
    )


def export(name: str, folder: pathlib.Path) -> str:
    """Write a benchmark's model as a directory that both engines load; return what `--model` takes."""
    if name == EMBEDDED:
        return EMBEDDED
    torch.manual_seed(0)
    adapter = MODELS[name].build().adapter
    adapter.tokenizer.chat_template = adapter.chat_template
    for part in (adapter.model, adapter.tokenizer, adapter.image_processor):
        part.save_pretrained(folder)
    config = adapter.model.config
    if config.model_type == "llava":  # by its processor's file vLLM counts the tokens of a picture
        processor = {
            "processor_class": "LlavaProcessor",
            "patch_size": config.vision_config.patch_size,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
        }
        (folder / "processor_config.json").write_text(json.dumps(processor))
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("prefix", "vllm"), default="prefix")
    parser.add_argument("--model", choices=sorted(MODELS), default="llava-100m")
    parser.add_argument("--short", type=int, default=12)
    arguments = parser.parse_args()
    python = sys.executable if arguments.engine == "prefix" else os.environ["SECONDGLANCE_VLLM_PYTHON"]
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        (work / "model").mkdir()
        source = export(arguments.model, work / "model")
        options = ("--model", source, "--engine", arguments.engine)
        with server_process(python, work / "server.log", *options) as server:
            found = beside_long(server, arguments.short)
    if found is None:
        raise SystemExit(f"{arguments.model} has no long answers")
    print(f"p95 of {SHORT_TOKENS} tokens alone, and beside {found.long_tokens} ({found.beside} of them):")
    for clock, (alone, beside) in {"wall": found.wall_ms, "processor": found.cpu_ms}.items():
        print(f"  {clock:9} {alone:8.1f} {beside:8.1f} ms: {beside / alone:.2f}")
    print(f"by processor time {found.cpu_ratio:.2f}, goal <= {GOAL}; ", end="")
    print(f"first event / first token {found.first_event:.2f}, goal <= {FIRST_EVENT_GOAL}")
    print(json.dumps({"benchmark": "beside_long", **vars(arguments), **asdict(found)}))


if __name__ == "__main__":
    main()
