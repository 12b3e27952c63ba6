"""The same edge, the same answers: vLLM's engine beside the prefix engine, over HTTP."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re

import httpx
import pytest
from PIL import Image

from benchmarks.instruments.edges import converse_all
from benchmarks.instruments.processes import ROOT, ServerProcess
from benchmarks.throughput import conversations
from scenes.generator import make_scene, render
from secondglance import EdgeClient
from secondglance.settings import EdgeSettings

PHOTO = ROOT / "examples" / "photo.jpg"
TRUTH = json.loads((ROOT / "examples" / "photo.json").read_text())
SCENES = 50
FIRST_SCENE = 30_000
GLOBAL_TOKENS = 196
MOST_ENTROPY = 1e-4
FIXED = EdgeSettings(link_aware=False)  # both get the same bytes, however fast they answer


def both(on_vllm: ServerProcess, on_prefix: str, photo: pathlib.Path, question: str) -> tuple[float, int]:
    """Ask both; return the largest difference of an uncertainty, and the stage."""
    with EdgeClient(on_vllm.url, settings=FIXED) as vllm, EdgeClient(on_prefix, settings=FIXED) as prefix:
        one, other = vllm.ask(photo, question), prefix.ask(photo, question)
    assert (one.answer, one.stage, one.roi) == (other.answer, other.stage, other.roi)
    assert (one.degraded, other.degraded) == (None, None)
    pairs = [(one.first.confidence, other.first.confidence), (one.final.confidence, other.final.confidence)]
    measures = ("min_entropy", "shannon", "margin")
    return max(abs(getattr(a, m) - getattr(b, m)) for a, b in pairs for m in measures), one.stage


def test_the_models_answers_about_themselves_are_the_same(on_vllm: ServerProcess, on_prefix: str) -> None:
    """Gate, budgets and localisation come from the same files."""
    one, other = (httpx.get(f"{url}/v1/model").json() for url in (on_vllm.url, on_prefix))
    assert one | {"limits": None} == other | {"limits": None}
    assert one["limits"]["max_new_tokens"] == other["limits"]["max_new_tokens"]
    assert httpx.get(f"{on_vllm.url}/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize("question", [TRUTH["question"], TRUTH["coarse_question"]])
def test_the_demo_is_the_same(on_vllm: ServerProcess, on_prefix: str, question: str) -> None:
    assert both(on_vllm, on_prefix, PHOTO, question)[0] <= MOST_ENTROPY


def test_held_out_scenes_are_the_same(on_vllm: ServerProcess, on_prefix: str, tmp_path: pathlib.Path) -> None:
    """Fifty scenes that no model has seen: answers, stages and regions equal, uncertainties to 1e-4."""
    worst, stages = 0.0, [0, 0]
    before = cached_in_stage_two(on_vllm.url)
    for number in range(SCENES):
        scene = make_scene(FIRST_SCENE + number, split="test")
        photo = tmp_path / f"{number}.png"
        render(scene).save(photo, compress_level=1)
        question = scene.questions[number % len(scene.questions)].text
        difference, stage = both(on_vllm, on_prefix, photo, question)
        worst = max(worst, difference)
        stages[stage - 1] += 1
    cached = (cached_in_stage_two(on_vllm.url) - before) / (stages[1] * GLOBAL_TOKENS)
    print(f"\nstages: {stages}; entropies differ by {worst:.1e}; cached in stage two: {cached:.0%}")
    assert min(stages) >= 10, "both ways are seen"
    assert worst <= MOST_ENTROPY
    assert cached >= 0.8, "of the global picture's tokens in stage two"


def cached_in_stage_two(url: str) -> float:
    found = re.search(
        r'^secondglance_tokens_total\{kind="cached",stage="2"\} (\S+)$',
        httpx.get(f"{url}/metrics").text,
        re.M,
    )
    assert found
    return float(found[1])


def test_sixty_four_conversations_at_once_are_not_mixed_up(on_vllm: ServerProcess) -> None:
    """Each conversation's replies are those that it gets alone, whoever else is asking."""
    budget = httpx.get(f"{on_vllm.url}/v1/model").json()["image"]
    asked = conversations(64, budget)
    alone, together = (asyncio.run(converse_all(on_vllm.url, asked, edges)) for edges in (1, 64))
    assert len(alone) == len(together) >= 128
    differ = [a for a, b in zip(alone, together, strict=True) if not a.agrees_with(b, tolerance=1e-4)]
    print(f"\n{len(together)} replies, {len(differ)} mixed up")
    assert differ == []
    assert len({(e.answer, round(e.uncertainty, 4)) for e in alone}) > 32, "mixed up replies would show"


def test_clients_that_leave_free_their_places(on_vllm: ServerProcess) -> None:
    """Forty-eight hang up in the middle; nothing waits or runs for them afterwards."""
    picture = Image.new("RGB", (224, 168), "red")
    budget = {"max_width": 224, "max_height": 224, "max_pixels": None}
    asked = conversations(16, budget)

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=on_vllm.url) as client:
            tasks = []
            for number in range(48):
                one = asked[number % 16]
                request = {"question": f"{one.question} {number}", "image": {"width": 1600, "height": 1200}}
                parts = {
                    "request": (None, json.dumps(request), "application/json"),
                    "image": ("i.jpg", one.upload, "image/jpeg"),
                }
                tasks.append(asyncio.create_task(client.post("/v1/inferences", files=parts)))
            await asyncio.sleep(0.5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(leave())
    with EdgeClient(on_vllm.url) as client:
        assert client.ask(picture, "How many signs are there?").answer
    text = httpx.get(f"{on_vllm.url}/metrics").text
    assert "\nsecondglance_queue_depth 0.0\n" in text
    assert "\nsecondglance_requests_in_flight 1.0\n" in text, "this question for the metrics only"
