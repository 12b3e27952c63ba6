"""Studies in process ask for the regions that the server asks for, and for no others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from secondglance_eval.asking.in_process import answers, wanted_region
from secondglance_protocol.geometry import fit_within
from secondglance_protocol.wire import ImageSize
from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerRequest, Picture
from tests.server.exchange import QUESTION, ask, encode, running_client

SIZES = [(4000, 3000), (340, 252), (336, 252), (200, 100), (700, 20), (400, 5000), (8000, 300), (350, 350)]
PEAKS = [(0.5, 0.5), (0.02, 0.98), (0.9, 0.3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("peak", PEAKS)
@pytest.mark.parametrize("is_off_domain", [None, False, True])
async def test_a_study_wants_the_region_that_the_server_asks_for(
    size: tuple[int, int], peak: tuple[float, float], is_off_domain: bool | None
) -> None:
    engine = FakeEngine(FakeScript(peak=peak, is_off_domain=is_off_domain))
    original = ImageSize(width=size[0], height=size[1])
    view = fit_within(original, max_width=336, max_height=336)
    upload = encode(view.width, view.height)
    async with running_client(engine) as client:
        reply = (await ask(client, upload=upload, image=original.model_dump())).json()
    picture = Picture("a", np.asarray(Image.open(io.BytesIO(upload))))
    (draft,) = answers(engine, [AnswerRequest(picture, QUESTION)])
    wanted = wanted_region(engine, draft, picture, original)
    assert (wanted and wanted.model_dump()) == (reply["roi"] and reply["roi"]["pixels"])
    assert (wanted is None) == (reply["status"] == "answered")


def test_some_of_these_are_asked_for_and_some_are_not() -> None:
    """Else the test above shows nothing."""
    engine = FakeEngine()
    found = []
    for width, height in SIZES:
        original = ImageSize(width=width, height=height)
        view = fit_within(original, max_width=336, max_height=336)
        picture = Picture("a", np.zeros((view.height, view.width, 3), np.uint8))
        (draft,) = answers(engine, [AnswerRequest(picture, QUESTION)])
        found.append(wanted_region(engine, draft, picture, original) is not None)
    assert 2 <= sum(found) <= len(SIZES) - 2
