"""The ladder's measurement: its arithmetic, and that it is the pair that it measures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.instruments.marked import put_between
from benchmarks.ladder import FIXED_IMAGE, FIXED_PATCH, IMAGES, PATCHES, ask_scene, figures, lost, outcomes
from scenes.photos import original_of
from secondglance import EdgeClient, EdgeSettings, Hooks
from secondglance.conversation.steps import Send
from secondglance.link.measured_encodings import MEASURED_FILE
from secondglance_eval.markdown import markdown_table
from secondglance_server.engine.loader import load_engine
from secondglance_server.testing import serving


def test_what_is_measured_in_process_is_what_the_pair_does_over_http() -> None:
    """The same answers and bytes for every question of a scene, for encodings that are not the fixed ones."""
    scene, jpeg = original_of(430_002)
    row = ask_scene(load_engine("embedded"), scene, jpeg)
    image, patch = "webp 30", "webp 50"
    sent: dict[str, int] = {}

    def note(send: Send) -> None:
        for part in send.parts:
            if not part.name.endswith(".json"):
                sent[send.stage] = len(part.data)

    quality = {"image_quality": IMAGES[image][0].quality, "patch_quality": PATCHES[patch].quality}
    with serving() as url:
        settings = EdgeSettings(url=url, remembered_images=0, **quality)
        with EdgeClient(settings=settings, hooks=Hooks(on_request=note)) as client:
            replies, bytes_ = [], []
            for question in scene.questions:
                sent.clear()
                replies.append(client.ask(jpeg, question.text))
                bytes_.append((sent["stage1"], sent.get("stage2")))
    found = row["images"][image]
    right = [
        reply.answer == question.answer for reply, question in zip(replies, scene.questions, strict=True)
    ]
    assert outcomes(row, image, patch) == right
    assert bytes_ == [(found["bytes"], second and second[1]) for second in found["patches"][patch]]
    assert any(second for second in found["patches"][patch]), "no second stage in this scene shows nothing"


def scene_row(*, draft: bool, fixed: bool, smaller: bool) -> dict[str, Any]:
    """One reading question with a second stage, right or not, and one question without."""
    seconds = {name: [(smaller, 10), None] for name in PATCHES} | {FIXED_PATCH: [(fixed, 30), None]}
    images = {name: {"bytes": 100, "drafts": [draft, True], "patches": seconds} for name in IMAGES}
    return {"seed": 1, "kinds": ["read", "count"], "images": images}


def test_losses_are_of_all_questions_and_a_regions_of_those_that_needed_one() -> None:
    rows = [scene_row(draft=False, fixed=True, smaller=number > 0) for number in range(4)]
    found = figures(rows)
    smaller = next(rung for rung in found["patches"] if rung["name"] == "webp 50")
    assert (smaller["points_lost"], smaller["accuracy"], smaller["bytes"]) == (25.0, 0.75, 10)
    pair = found["pairs"][f"{FIXED_IMAGE} / webp 50"]
    assert (pair["points_lost"], pair["reading_points_lost"]) == (12.5, 25.0)
    assert found["images"][0]["second_glances"] == 0.5


def test_an_encoding_that_never_differed_is_not_taken_for_equal() -> None:
    flags = [[True, False]] * 8
    assert lost(flags, flags) == {"points_lost": 0.0, "standard_error": 6.25}
    one_worse = [[False, False], *flags[1:]]
    found = lost(flags, one_worse)
    spread = math.sqrt((1 - 1 / 8) ** 2 + 7 * (1 / 8) ** 2 + 1) / 16
    assert found["standard_error"] == pytest.approx(100 * spread, abs=0.01)


def test_the_edges_ladder_is_one_measurement_with_its_terms() -> None:
    ladder = json.loads(MEASURED_FILE.read_text())
    assert [rung["name"] for rung in ladder["images"]] == list(IMAGES)
    assert [rung["name"] for rung in ladder["patches"]] == list(PATCHES)
    assert ladder["questions"] >= 1500
    assert set(ladder["pairs"]) == {f"{image} / {patch}" for image in IMAGES for patch in PATCHES}


def test_a_table_is_put_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n")
    table = markdown_table(("a", "b"), [("1", "2")])
    for _ in range(2):
        put_between(page, "x", table)
        assert page.read_text() == f"before\n<!-- x -->\n{table}\n<!-- /x -->\nafter\n"
    with pytest.raises(ValueError, match="no marks"):
        put_between(page, "y", table)
