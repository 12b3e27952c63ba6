"""What is sent of a picture, and the qualities that reach a number of bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondglance import EdgeSettings
from secondglance.pictures.encoding import Recipe
from secondglance_eval.asking.equal_bytes import Chosen, Tried, at_bytes, load_choice
from secondglance_eval.asking.photo import Photo, View
from secondglance_protocol.wire import ModelResponse, PixelBox
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.inference.replies import model_response
from secondglance_server.settings import ServerSettings

SIZE = (1600, 1200)


@pytest.fixture(scope="module")
def model() -> ModelResponse:
    return model_response(FakeEngine().info, ServerSettings())


@pytest.fixture(scope="module")
def photos(model: ModelResponse) -> list[Photo]:
    rng = np.random.default_rng(3)
    coarse = [Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)) for _ in range(2)]
    return [Photo(encoded(image.resize(SIZE), "PNG"), SIZE, model) for image in coarse]


def encoded(image: Image.Image, format_: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
def test_a_view_has_a_multiple_of_the_sides_that_the_model_can_use(
    photos: list[Photo], model: ModelResponse, scale: float
) -> None:
    width, height = size_of(photos[0].view(View(Recipe("webp", 60), scale)).data)
    assert max(width, height) == min(max(SIZE), round(scale * model.image.max_width))
    assert width / height == pytest.approx(SIZE[0] / SIZE[1], rel=0.01)


def test_a_view_is_encoded_once(photos: list[Photo]) -> None:
    view = View(EdgeSettings().image_recipe)
    assert photos[0].view(view) is photos[0].view(view)


def test_the_original_goes_as_it_is(photos: list[Photo], model: ModelResponse) -> None:
    assert photos[0].whole().data == photos[0].data
    assert photos[0].whole().media_type == "image/png"
    jpeg = Photo(encoded(Image.new("RGB", (40, 30)), "JPEG"), (40, 30), model)
    assert jpeg.whole().media_type == "image/jpeg"


def test_a_patch_shows_the_box(photos: list[Photo]) -> None:
    from secondglance_server.inference.replies import patch_offer

    offer = patch_offer("inf_1", FakeEngine().info, ServerSettings())
    box = PixelBox(left=10, top=20, right=110, bottom=80)
    patch = photos[0].patch(box, offer, EdgeSettings().patch_recipe)
    assert size_of(patch.data) == (100, 60)
    with Image.open(io.BytesIO(photos[0].data)) as original, Image.open(io.BytesIO(patch.data)) as shown:
        difference = np.asarray(original.convert("RGB").crop((10, 20, 110, 80)), float) - np.asarray(
            shown, float
        )
    assert abs(difference).mean() < 8


@pytest.mark.parametrize("recipe", [Recipe("jpeg"), Recipe("webp")], ids=lambda recipe: recipe.format)
def test_the_least_quality_that_reaches_the_bytes(photos: list[Photo], recipe: Recipe) -> None:
    view = View(recipe)

    def mean_bytes(quality: int) -> float:
        return float(np.mean([len(photo.view(view.at_quality(quality)).data) for photo in photos]))

    wanted = (mean_bytes(60) + mean_bytes(80)) / 2
    found = at_bytes(view, photos, wanted).recipe.quality
    assert mean_bytes(found) >= wanted > mean_bytes(found - 1)


def test_the_best_quality_where_none_reaches_the_bytes(photos: list[Photo]) -> None:
    assert at_bytes(View(Recipe("jpeg")), photos, 1e9).recipe.quality == 100


def test_a_choice_comes_back_as_it_was(tmp_path: Path) -> None:
    views = [View(Recipe("jpeg", q, q)) for q in (70, 80, 90)]
    tried = tuple(Tried(view, 0.5, 5000.0) for view in views)
    chosen = Chosen(4999.5, tried, ample=View(Recipe("webp", 95, 95), 2.0), frugal=views[0])
    chosen.save(tmp_path / "choice.json")
    assert load_choice(tmp_path / "choice.json") == chosen


def test_no_encoding_is_put_to_the_server_twice() -> None:
    views = [View(Recipe("jpeg", q, q)) for q in (70, 80)]
    tried = tuple(Tried(view, 0.5, 5000.0) for view in views)
    methods = Chosen(1.0, tried, ample=views[0], frugal=views[1]).methods()
    assert [method.name for method in methods] == ["global: jpeg 4:2:0 q70 1x", "global: jpeg 4:2:0 q80 1x"]
