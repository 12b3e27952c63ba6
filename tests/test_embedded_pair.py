"""The whole product with its real model: a server process, an edge, HTTP between them, a large photo."""

import json
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from secondglance import EdgeClient
from secondglance.pictures.original import Original
from secondglance.settings import EdgeSettings
from secondglance_server.testing import serving

pytestmark = pytest.mark.live

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
PHOTO = EXAMPLES / "photo.jpg"
TRUTH = json.loads((EXAMPLES / "photo.json").read_text())


@pytest.fixture(scope="module")
def client() -> Iterator[EdgeClient]:
    with serving() as url, EdgeClient(url) as client:
        yield client


def test_the_second_glance_gives_the_right_answer(client: EdgeClient) -> None:
    """Unsure at stage one, right at stage two, for a twentieth of the original's bytes or less."""
    reply = client.ask(PHOTO, TRUTH["question"])
    assert reply.draft_confidence.value > reply.draft_confidence.threshold
    assert (reply.stage, reply.answer, reply.degraded) == (2, TRUTH["answer"], None)
    assert reply.receipt.uplink_bytes * 20 <= PHOTO.stat().st_size


def test_the_region_holds_the_sign(client: EdgeClient) -> None:
    reply = client.ask(PHOTO, TRUTH["question"], mode="always")
    assert reply.roi is not None
    box, sign = reply.roi.pixels, TRUTH["box"]
    assert box.left <= sign[0]
    assert box.top <= sign[1]
    assert box.right >= sign[2]
    assert box.bottom >= sign[3]


def test_a_plain_question_needs_no_second_glance(client: EdgeClient) -> None:
    reply = client.ask(PHOTO, TRUTH["coarse_question"])
    assert (reply.stage, reply.answer) == (1, TRUTH["coarse_answer"])


def test_a_follow_up_about_the_same_photo_uploads_no_picture(client: EdgeClient) -> None:
    client.ask(PHOTO, TRUTH["coarse_question"])
    again = client.ask(PHOTO, TRUTH["coarse_question"])
    assert again.answer == TRUTH["coarse_answer"]
    assert again.receipt.stage1.uplink_bytes < 1500


def test_the_answer_does_not_depend_on_the_orientation_flag(
    client: EdgeClient, tmp_path: pathlib.Path
) -> None:
    """A phone stores the same upright picture sideways with a flag; box and answer stay the same."""
    upright = Image.open(PHOTO)
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = tmp_path / "sideways.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(sideways, exif=exif, compress_level=1)
    flat = tmp_path / "upright.png"
    upright.save(flat, compress_level=1)
    limit = EdgeSettings().max_original_pixels
    with Original(sideways, max_pixels=limit) as one, Original(flat, max_pixels=limit) as other:
        assert one.size == other.size
        corner = (0, 0, 64, 48)
        np.testing.assert_array_equal(np.asarray(one.crop(corner)), np.asarray(other.crop(corner)))
    first, second = client.ask(flat, TRUTH["question"]), client.ask(sideways, TRUTH["question"])
    assert (first.answer, first.roi) == (second.answer, second.roi)
