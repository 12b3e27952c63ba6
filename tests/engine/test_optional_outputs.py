"""Every optional output of every family, asked for over HTTP at sides that are no multiple of a patch.

I3: a map whose content reached outside [0, 1] broke the reply of one family, and only where a question asked
for `relevance` about a picture of an odd shape. The engines are real, their models tiny and random.
"""

from __future__ import annotations

import io
import itertools
import math

import httpx
from PIL import Image

from secondglance_protocol.wire import InferenceResponse
from secondglance_server.engine.loader import load_engine
from tests.engine.conftest import Family
from tests.engine.tiny.parts import picture
from tests.server.exchange import message, parts_of, patch_for, put_patch, running_client

OUTPUTS = ((), ("tokens",), ("relevance",), ("tokens", "relevance"))
MODES = ("auto", "always", "answer_only")
SIDES = ((101, 37), (37, 101), (83, 79), (129, 65))  # width, height: wide, tall, odd, a pixel over
ENLARGED = 24  # the original over what is uploaded: there is something to see in a crop
FEW_TOKENS = 3


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(height, width)).save(buffer, "PNG")
    return buffer.getvalue()


def checked(response: httpx.Response, include: tuple[str, ...]) -> InferenceResponse:
    """The reply, valid and holding exactly what was asked for."""
    assert response.status_code == 200, response.text
    reply = InferenceResponse.model_validate_json(response.content)
    assert (reply.tokens is not None) == ("tokens" in include)
    assert reply.relevance is None or "relevance" in include
    if reply.tokens is not None:
        assert len(reply.tokens) <= FEW_TOKENS  # none where the model ends at once
    if reply.relevance is not None:
        rows = reply.relevance.weights
        assert len({len(row) for row in rows}) == 1
        assert all(math.isfinite(weight) and weight >= 0 for row in rows for weight in row)
    return reply


async def test_every_optional_output_is_valid_at_every_shape(family: Family) -> None:
    """I3: all subsets of `include` in all modes at all shapes, then the patch where one is asked for."""
    engine = load_engine(str(family.tiny.directory), device="cpu", dtype="float32")  # the app closes it
    shapes_with_patch = set()
    async with running_client(engine) as client:
        for size, mode, include in itertools.product(SIDES, MODES, OUTPUTS):
            if await both_stages(client, size, mode, include):
                shapes_with_patch.add((size, include))
    assert len(shapes_with_patch) == len(SIDES) * len(OUTPUTS), "a question of mode `always` got no patch"


async def both_stages(
    client: httpx.AsyncClient, size: tuple[int, int], mode: str, include: tuple[str, ...]
) -> bool:
    """Check the first reply and, where it asks for a patch, the second; return whether it asked."""
    width, height = size
    original = {"width": width * ENLARGED, "height": height * ENLARGED}
    asked = message(image=original, mode=mode, include=include, max_new_tokens=FEW_TOKENS)
    response = await client.post("/v1/inferences", files=parts_of(asked, png(width, height)))
    reply = checked(response, include)
    if mode == "always":
        assert (reply.relevance is not None) == ("relevance" in include)
    if mode == "answer_only":
        assert (reply.status, reply.roi, reply.relevance) == ("answered", None, None)
    if reply.patch is None:
        return False
    patched = await put_patch(client, reply.patch.url, patch_for(response.json()))
    second = checked(patched, include)
    assert (second.stage, second.status, second.roi) == (2, "answered", reply.roi)
    return True
