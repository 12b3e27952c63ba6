"""The held-out scenes: sizes, ids, boxes, and that they come the same every time."""

from __future__ import annotations

import io
import pickle

from PIL import Image

from secondglance_eval.datasets.held_out import PIXELS, HeldOutScenes, size_of
from secondglance_eval.datasets.seeds import CALIBRATION_SEED, TEST_SEED


def test_sizes_are_4_to_12_megapixels_of_varied_shape() -> None:
    sizes = [size_of(seed) for seed in range(TEST_SEED, TEST_SEED + 400)]
    assert all(PIXELS[0] <= width * height <= PIXELS[1] for width, height in sizes)
    shapes = [width / height for width, height in sizes]
    assert min(shapes) < 0.6
    assert max(shapes) > 1.7
    assert len(set(sizes)) > 390


def test_examples_come_by_picture_the_same_every_time() -> None:
    dataset = HeldOutScenes(3)
    groups = list(dataset)
    assert [example.id for group in groups for example in group] == [
        example.id for group in dataset for example in group
    ]
    assert len(groups) == len(dataset) == 3
    assert all(len({example.image_id for example in group}) == 1 for group in groups)
    ids = [example.id for group in groups for example in group]
    assert len(ids) == len(set(ids))
    assert {example.kind for group in groups for example in group} == {"read", "color", "count", "presence"}


def test_what_lies_somewhere_has_a_box_and_a_height() -> None:
    for example in next(iter(HeldOutScenes(1))):
        is_somewhere = example.kind in ("read", "color")
        assert (example.box is not None) == is_somewhere
        assert (example.text_height_px is not None) == is_somewhere
        if example.box is not None:
            assert example.box.right <= example.width
            assert example.box.bottom <= example.height


def test_the_picture_is_drawn_in_another_process_at_its_size() -> None:
    example = next(iter(HeldOutScenes(1)))[0]
    copy = pickle.loads(pickle.dumps(example))
    with Image.open(io.BytesIO(copy.image())) as image:
        assert image.size == (example.width, example.height)


def test_an_answer_is_right_in_any_case_of_letters() -> None:
    dataset = HeldOutScenes(1)
    example = next(iter(dataset))[0]
    assert dataset.score(example.answers[0].lower(), example) == 1
    assert dataset.score("no such text", example) == 0


def test_what_is_chosen_by_measurement_is_not_judged_by_the_same_scenes() -> None:
    assert TEST_SEED + 50_000 < CALIBRATION_SEED
