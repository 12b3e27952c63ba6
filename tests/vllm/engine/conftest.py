"""The embedded model on vLLM in this process, and the stock model of transformers beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from secondglance_server.engine.loader import EMBEDDED, EMBEDDED_WEIGHTS
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, Picture
from secondglance_server.engine.vllm.core import VllmCore
from secondglance_server.engine.vllm.load import load_vllm
from secondglance_server.engine.vllm.options import VllmOptions

LAYER = 2  # the embedded model's


@dataclass
class Running:
    """An engine and the event loop that it belongs to."""

    core: VllmCore
    loop: asyncio.AbstractEventLoop

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 300))

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult]:
        """All at once: continuous batching puts them together as they come."""

        async def together() -> list[tuple[AnswerResult, float]]:
            return list(await asyncio.gather(*(self.core.answer(request) for request in requests)))

        return [result for result, _ in self.run(together())]


def running(**options: Any) -> Iterator[Running]:
    loop = asyncio.new_event_loop()
    core = loop.run_until_complete(load_vllm(VllmOptions(EMBEDDED, max_running=16, **options)))
    try:
        yield Running(core, loop)
    finally:
        core.close()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def picture(number: int, width: int = 224, height: int = 150) -> Picture:
    """Blocks of colour, so that maps differ from picture to picture."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return Picture(f"picture-{number}-{width}x{height}", blocks.repeat(16, 0).repeat(16, 1)[:height, :width])


@dataclass
class Stock:
    """Greedy answers, entropies and attention by transformers with eager attention, one by one."""

    model: Any

    @torch.inference_mode()
    def answer(self, core: VllmCore, request: AnswerRequest, steps: int) -> tuple[list[int], Any, Any]:
        """Return ids, uncertainties [tokens, 3] and the map, from the prompt that vLLM was given."""
        prepared = core._inputs.prepare(request)
        pictures = [request.picture] + ([request.patch] if request.patch else [])
        pixels = torch.cat([core._front.adapter.pixels(p.rgb)["pixel_values"] for p in pictures])
        ids = list(prepared.prompt.ids)
        measured, chosen, grid = [], [], None
        for _ in range(max(1, steps)):
            out = self.model(
                input_ids=torch.tensor([ids]),
                pixel_values=pixels,
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                output_attentions=True,
            )
            if grid is None:
                row = out.attentions[LAYER][0, :, -1].mean(dim=0)
                grid = row[prepared.prompt.grid].numpy()
            log_p = out.logits[0, -1].double().log_softmax(-1)
            best = log_p.exp().topk(2).values
            entropy = -(log_p.exp() * log_p).sum()
            measured.append([-float(log_p.max()), float(entropy), float(1 - (best[0] - best[1]))])
            token = int(log_p.argmax())
            if token in core._front.adapter.end_ids:
                break
            chosen.append(token)
            ids.append(token)
        return chosen, np.array(measured), grid


@pytest.fixture(scope="session")
def stock() -> Stock:
    model = LlavaForConditionalGeneration.from_pretrained(
        EMBEDDED_WEIGHTS, dtype=torch.float32, attn_implementation="eager"
    )
    return Stock(model.eval())
