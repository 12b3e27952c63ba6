"""What `make eval-model` reports, on rows made by hand and on an engine without a model."""

from __future__ import annotations

import io
import json
import math
import pathlib
import sys
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import benchmarks.model
from benchmarks import reader
from benchmarks.instruments.photos import originals
from benchmarks.model import Row, ask_illegible, ask_scene, auroc, main, print_tables, summarize
from scenes.generator import Scene, encode_jpeg, make_scene, render, shown_share
from secondglance.settings import EdgeSettings
from secondglance_eval.asking.in_process import Edge
from secondglance_protocol.wire import PixelBox
from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerRequest


def row(
    kind: str, answer: str, first: str, *, height: float = 5.0, nats: float = 0.1, **others: object
) -> Row:
    return Row(kind, height, answer, first, nats, nats, nats, **others)  # type: ignore[arg-type]


def auroc_by_counting(scores: list[float], positives: list[bool]) -> float:
    pairs = [
        (p, n)
        for p, is_positive in zip(scores, positives, strict=True)
        if is_positive
        for n, other in zip(scores, positives, strict=True)
        if not other
    ]
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auroc_is_the_share_of_pairs_in_order_with_ties_counting_half(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(20):
        scores = (rng.integers(0, levels, 40) / levels).tolist()
        positives = [*(rng.random(40) < 0.3).tolist(), True, False]
        scores += [0.5, 0.5]
        assert auroc(scores, positives) == pytest.approx(auroc_by_counting(scores, positives))


def test_auroc_is_undefined_when_nothing_or_everything_is_positive() -> None:
    assert math.isnan(auroc([0.1, 0.2], [True, True]))
    assert math.isnan(auroc([0.1, 0.2], [False, False]))


def test_shown_share_is_the_part_of_the_sign_in_the_box() -> None:
    sign = (10.0, 10.0, 30.0, 20.0)
    assert shown_share(sign, (0, 0, 100, 100)) == 1
    assert shown_share(sign, (20, 0, 100, 15)) == 0.25
    assert shown_share(sign, (40, 0, 100, 100)) == 0


def test_the_pair_takes_the_second_answer_only_where_the_gate_fires() -> None:
    rows = [
        row("read", "A7", "A7", height=12, nats=0.1, with_crop="XX", with_true_crop="A7"),  # sure and right
        row("read", "B8", "B3", height=3, nats=2.0, with_crop="B8", with_true_crop="B8", box_share=1.0),
        row("read", "C9", "C1", height=3, nats=0.2, with_crop="C9", with_true_crop="C9", box_share=0.5),
        row("read", "D1", "D1", height=10, nats=1.0, with_crop="D7", with_true_crop="D1"),  # made worse
        row("count", "3", "3", height=math.nan),
        row("presence", "yes", "no", height=math.nan, nats=0.9, with_crop="yes"),
        row("color", "red", "red"),
    ]
    illegible = [
        row("read", "B8", "B3", height=3, nats=2.0, with_crop="B8"),
        row("read", "C9", "C1", height=3, nats=0.2, with_crop="C9"),  # sure of it
        row("read", "D1", "D1", height=3, nats=0.7, with_crop="D1"),
    ]
    figures = summarize(rows, illegible, 0.5, scenes=1)
    assert figures["pair"] == pytest.approx(5 / 7, abs=1e-4)  # A7, B8, the count, the presence, the colour
    assert figures["count_pair"] == 1.0
    assert figures["read_stage1"] == 0.5
    assert figures["read_pair"] == 0.5  # A7 kept, B8 gained, C9 missed, D1 lost
    assert figures["pair_gain_points"] == 0
    assert figures["read_with_crop"] == 1.0
    assert figures["pair_vs_true_crop_points"] == -50
    assert figures["retransmission_rate"] == 0.5
    assert figures["box_hit"] == 0.5  # of the two that were wrong at first
    assert figures["read_legible"] == 1.0
    assert figures["illegible"] == 3
    assert figures["read_illegible_stage1"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["min_entropy_illegible"] == pytest.approx(2.9 / 3, abs=1e-4)
    assert figures["illegible_unsure"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["illegible_mended"] == 0.5  # of the two that were wrong at first
    assert figures["coarse"] == 0.5
    assert figures["color"] == 1.0
    scores, wrong = [r.min_entropy for r in rows], [not r.is_right for r in rows]
    assert figures["gate_auroc"] == pytest.approx(auroc_by_counting(scores, wrong), abs=1e-4)


def test_where_the_server_asks_for_no_crop_the_first_answer_stays() -> None:
    kept = row("read", "A7", "A1", nats=2.0, with_crop="A7", is_skipped=True)
    assert not kept.is_right_as_pair(0.5)
    scene = make_scene(3, split="test", size=(1600, 1200))
    jpeg = encode_jpeg(render(scene), 90)
    for is_off_domain in (False, True):
        engine = FakeEngine(FakeScript(is_off_domain=is_off_domain))
        rows = ask_scene(engine, EdgeSettings(), scene, jpeg)
        assert {r.is_skipped for r in rows} == {is_off_domain}


def test_the_tables_show_every_band_and_kind(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables([row("read", "A7", "A7", height=h) for h in (3, 5, 7, 12)] + [row("count", "2", "2")], 0.5)
    shown = capsys.readouterr().out
    assert all(band in shown for band in ("0-4", "4-6", "6-9", "9-inf"))
    assert all(kind in shown for kind in ("count", "presence", "color"))


@pytest.mark.parametrize("nats", [1.5, 0.001])
def test_every_question_is_asked_and_again_where_it_reads_or_is_unsure(nats: float) -> None:
    scene = make_scene(3, split="test", size=(1600, 1200))
    jpeg = encode_jpeg(render(scene), 90)
    sign = scene.signs[0]
    x, y = sign.center
    script = FakeScript(
        draft=sign.text, answer="42", draft_entropy_nats=nats, peak=(x / scene.width, y / scene.height)
    )
    engine = FakeEngine(script)
    rows = ask_scene(engine, EdgeSettings(), scene, jpeg)
    assert [(r.kind, r.answer) for r in rows] == [(q.kind, q.answer) for q in scene.questions]
    assert [r.min_entropy for r in rows] == pytest.approx([nats] * len(rows))
    reads = [r for r in rows if r.kind == "read"]
    assert [r.is_right for r in reads] == [s is sign for s in scene.signs]
    assert {(r.with_crop, r.with_true_crop) for r in reads} == {("42", "42")}
    shares = [r.box_share for r in reads]
    assert shares[0] == max(shares) > 0.5  # the box is where the engine looked
    side = engine.info.image.max_width
    assert [r.height for r in reads] == [scene.text_height_in_view(s, side) for s in scene.signs]
    asked = [(call.stage, text) for call in engine.calls if call.kind == "answer" for text in call.questions]
    assert asked.count((1, scene.questions[0].text)) == 1
    assert [stage for stage, _ in asked].count(1) == len(rows)
    others = [r for r in rows if r.kind != "read"]
    is_unsure = nats > engine.info.gate.threshold
    assert others
    assert {r.with_crop for r in others} == {"42" if is_unsure else ""}
    assert [stage for stage, _ in asked].count(2) == 2 * len(reads) + is_unsure * len(others)


def test_text_that_is_too_small_is_asked_about_in_a_smaller_first_picture() -> None:
    """Under a key of its own, so that no engine answers from the larger picture that it keeps."""
    scene = next(s for s in map(held_out, range(30)) if 0 < len(too_small(s)) < len(s.signs))
    jpeg = encode_jpeg(render(scene), 90)
    sides: dict[str, int] = {}

    def look(request: AnswerRequest) -> bool:
        return max(request.picture.rgb.shape) != sides.setdefault(
            request.picture.key, max(request.picture.rgb.shape)
        )

    engine = FakeEngine(FakeScript(fails=look))
    ask_scene(engine, EdgeSettings(), scene, jpeg)
    rows = ask_illegible(engine, scene, jpeg)
    assert [row.answer for row in rows] == too_small(scene)
    assert {row.kind for row in rows} == {"read"}
    assert all(row.height < 4 for row in rows)
    assert sorted(sides.values()) == [224, 336]


def held_out(seed: int) -> Scene:
    return make_scene(seed, split="test")


def too_small(scene: Scene) -> list[str]:
    """Return what text says that has under 4 px where the longer side has 224."""
    return [sign.text for sign in scene.signs if scene.text_height_in_view(sign, 224) < 4]


def test_the_edge_cuts_its_patch_from_the_original() -> None:
    scene = make_scene(5, split="test", size=(1500, 1000))
    jpeg = encode_jpeg(render(scene), 95)
    edge = Edge(FakeEngine(), EdgeSettings(), jpeg)
    patch = edge.crop(PixelBox(left=300, top=200, right=500, bottom=360))
    with Image.open(io.BytesIO(jpeg)) as original:
        wanted = np.asarray(original.crop((300, 200, 500, 360))).astype(int)
    assert patch.rgb.shape == (160, 200, 3)
    assert np.abs(patch.rgb - wanted).mean() < 6  # its own JPEG
    assert max(edge.whole.rgb.shape) == 336


def test_originals_come_in_order_from_other_processes() -> None:
    found = list(originals(range(70, 72), workers=1))
    assert [scene.seed for scene, _ in found] == [70, 71]
    for scene, jpeg in found:
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.size == (scene.width, scene.height)


@pytest.mark.parametrize(("model", "processes"), [("embedded", 2), ("reader", 2), ("other/model", 1)])
def test_all_scenes_are_asked_in_order_by_processes_with_a_model_each(
    model: str,
    processes: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
) -> None:
    """Two of a model that the server brings; a larger one may fit the memory only once."""
    started: list[int | None] = []

    def pool(workers: int) -> Executor:
        started.append(workers)
        return ThreadPoolExecutor(workers)

    engine = FakeEngine(FakeScript(draft_entropy_nats=0.01))
    monkeypatch.setattr(benchmarks.model, "engine_of", lambda name: engine)
    monkeypatch.setattr(benchmarks.model.processes, "pool", pool)
    monkeypatch.setattr(reader, "texture_files", lambda split: ())
    monkeypatch.setattr(reader, "photo_scene", no_photographs)
    rows, scenes = tmp_path / "rows.jsonl", [make_scene(seed, split="test") for seed in (90, 91)]
    asked = ["--scenes", "2", "--photo-scenes", "1", "--first-seed", "90", "--rows", str(rows)]
    monkeypatch.setattr(sys, "argv", ["benchmarks.model", "--model", model, *asked])
    main()
    assert started == [processes]
    written = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["answer"] for row in written] == [q.answer for scene in scenes for q in scene.questions]
    last_line = capsys.readouterr().out.splitlines()[-1]
    found = json.loads(last_line, parse_constant=pytest.fail)  # NaN is no JSON
    assert (found["scenes"], found["questions"], found["photo_questions"]) == (2, len(written), 1)


def no_photographs(seed: int, count: int) -> reader.Scene:
    scene = make_scene(seed, split="test")
    look = reader.Subject(scene)
    return reader.Scene(look.size, look, (reader.Question("What number?", ("42",), "read"),))
