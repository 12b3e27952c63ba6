"""Many edges at once over real HTTP, each with a connection of its own, and what every reply said and took.

A conversation: a first question with its upload, the region if it is asked for, a follow-up question about
the image that the server holds by then. Pictures are prepared ahead, so that what is timed is the server and
HTTP; cropping and encoding the region is left to the edge, as it is in life.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import httpx
from PIL import Image

from secondglance_protocol.geometry import fit_within
from secondglance_protocol.wire import ImageSize

Kind = Literal["first", "stage2", "follow_up"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """`original`: what the edge holds; `upload`: its small copy as sent."""

    original: Image.Image
    upload: bytes
    question: str
    follow_up: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that was answered. `said`: what must not depend on what else runs."""

    conversation: int
    kind: Kind
    seconds: float
    answer: str
    uncertainty: float
    region: tuple[int, ...]
    completion_tokens: int

    def agrees_with(self, other: Exchange, *, tolerance: float) -> bool:
        """Same answer, same region, and as sure of it."""
        is_as_sure = abs(self.uncertainty - other.uncertainty) <= tolerance * max(1.0, other.uncertainty)
        return (self.answer, self.region) == (other.answer, other.region) and is_as_sure


async def converse_all(url: str, conversations: Sequence[Conversation], edges: int) -> list[Exchange]:
    """Every conversation once; each edge takes the next when it is done with one."""
    left = iter(enumerate(conversations))
    done: list[Exchange] = []
    await asyncio.gather(*(_edge(url, left, done) for _ in range(edges)))
    return sorted(done, key=lambda exchange: (exchange.conversation, exchange.kind))


async def _edge(url: str, left: Iterator[tuple[int, Conversation]], done: list[Exchange]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        for number, conversation in left:
            async for exchange in _converse(client, number, conversation):
                done.append(exchange)


async def _converse(client: httpx.AsyncClient, number: int, conversation: Conversation) -> Any:
    original = {"width": conversation.original.width, "height": conversation.original.height}
    request = {"question": conversation.question, "image": original}
    parts = {"request": (None, json.dumps(request), "application/json")}
    image = {"image": ("image.jpg", conversation.upload, "image/jpeg")}
    reply, exchange = await _timed(client, number, "first", "POST", "/v1/inferences", files=parts | image)
    yield exchange
    if reply["status"] == "needs_patch":
        patch = crop(conversation.original, reply["roi"]["pixels"], reply["patch"])
        headers = {"Content-Type": "image/jpeg"}
        _, exchange = await _timed(
            client, number, "stage2", "PUT", reply["patch"]["url"], content=patch, headers=headers
        )
        yield exchange
    request = {
        "question": conversation.follow_up,
        "image": original,
        "image_id": reply["image_id"],
        "mode": "answer_only",
    }
    parts = {"request": (None, json.dumps(request), "application/json")}
    _, exchange = await _timed(client, number, "follow_up", "POST", "/v1/inferences", files=parts)
    yield exchange


async def _timed(
    client: httpx.AsyncClient, number: int, kind: Kind, method: str, url: str, **message: Any
) -> tuple[dict[str, Any], Exchange]:
    started = time.perf_counter()
    response = await client.request(method, url, **message)
    seconds = time.perf_counter() - started
    response.raise_for_status()
    reply = response.json()
    exchange = Exchange(
        conversation=number,
        kind=kind,
        seconds=seconds,
        answer=reply["answer"],
        uncertainty=reply["confidence"]["value"],
        region=tuple(reply["roi"]["pixels"].values()) if reply["roi"] else (),
        completion_tokens=reply["usage"]["completion_tokens"],
    )
    return reply, exchange


def crop(original: Image.Image, pixels: dict[str, int], offer: dict[str, Any]) -> bytes:
    """The region as JPEG, no larger than the offer."""
    region = original.crop((pixels["left"], pixels["top"], pixels["right"], pixels["bottom"]))
    return jpeg(fitted(region, offer))


def fitted(image: Image.Image, budget: dict[str, Any]) -> Image.Image:
    """No larger than `max_width`, `max_height` and, if given, `max_pixels`."""
    size = fit_within(
        ImageSize(width=image.width, height=image.height),
        max_width=budget["max_width"],
        max_height=budget["max_height"],
        max_pixels=budget.get("max_pixels"),
    )
    small = (size.width, size.height)
    return image if small == image.size else image.resize(small, Image.Resampling.LANCZOS)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
