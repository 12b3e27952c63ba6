"""What the report says and looks like, from records made by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenes.generator import encode_jpeg
from secondglance_eval.asking.photo import View
from secondglance_eval.asking.records import Record, RecordWriter, StageCost
from secondglance_eval.campaign import CASES_FOLDER, RECORDS_FILE, cases_of
from secondglance_eval.datasets.held_out import HeldOutScenes
from secondglance_eval.facts import Facts
from secondglance_eval.judging.cases import save_pictures
from secondglance_eval.judging.curves import GateFigures
from secondglance_eval.judging.gates import GateStatistic
from secondglance_eval.judging.intervals import Estimate
from secondglance_eval.judging.study import Study
from secondglance_eval.report import page
from secondglance_eval.report.comparison import Comparison
from secondglance_eval.report.findings import find
from secondglance_eval.report.markdown import titled_table
from secondglance_eval.report.tables import (
    TextTable,
    facts_sentence,
    gates_sentence,
    headline_table,
    kinds_table,
)
from secondglance_eval.report.write import write_report
from secondglance_protocol.wire import DefaultGate
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.inference.replies import model_response
from secondglance_server.settings import ServerSettings

MakeRecord = Callable[..., Record]
GATE = DefaultGate(metric="min_entropy", aggregate="max", threshold=0.5)


def single(make_record: MakeRecord, number: int, name: str, *, right: bool, uplink: int) -> Record:
    cost = StageCost(uplink_bytes=uplink, downlink_bytes=900)
    return make_record(f"{number}/0", f"global: {name}", score=float(right), first=cost, second=None)


@pytest.fixture
def records(make_record: MakeRecord) -> list[Record]:
    """Forty pictures; of four questions one is wrong at first, doubtful, and right after."""
    found = []
    for i in range(40):
        helped = i % 4 == 0
        facts = {"draft_score": float(not helped), "nats": 2.0 if helped else 0.01 + i / 1000}
        found.append(make_record(f"{i}/0", text_height_px=3.0 + i % 15, **facts))
        for method in ("random_crop", "centre_crop"):
            # helps nobody, and confuses three of the thirty that were right
            right = not helped and i % 20 != 1 and i != 2
            found.append(make_record(f"{i}/0", method, score=float(right), **facts))
        found.append(make_record(f"{i}/0", "oracle_crop", **facts))
        found.append(single(make_record, i, "small", right=i % 4 > 1, uplink=4000))
        found.append(single(make_record, i, "equal", right=i % 8 > 0, uplink=5000))
        found.append(single(make_record, i, "ample", right=True, uplink=10_000))
    found += [make_record(f"{i}/0", "original_whole", score=0.0, second=None) for i in range(0, 40, 4)]
    return found


@pytest.fixture
def comparison(records: list[Record]) -> Comparison:
    return Comparison("all", records, GATE)


def test_the_headline_is_what_a_person_would_compute(comparison: Comparison) -> None:
    figures = {name: figure.value for name, figure in comparison.headline().items()}
    assert figures["pair_vs_always_points"] == 0
    assert figures["uplink_saving_vs_always"] == pytest.approx(1 - (3000 + 7000 / 4) / 10_000)
    assert figures["pair_vs_random_crop_points"] == 25
    assert figures["pair_vs_centre_crop_points"] == 25
    for crop in ("random_crop", "centre_crop"):
        assert figures[f"pair_vs_blind_{crop}_points"] == pytest.approx(25 + 7.5 / 4)
    assert figures["pair_vs_oracle_points"] == 0
    assert figures["bytes_vs_original"] == pytest.approx(4750 / 1_000_000)
    assert figures["pair_vs_equal_bytes_points"] == 12.5


def test_equal_bytes_is_the_best_picture_up_to_the_first_that_takes_as_much(
    comparison: Comparison,
) -> None:
    """The pair takes 4,750 bytes: the picture of 5,000 counts, the better one of 10,000 no more."""
    assert comparison.equal_bytes.name == "global: equal"
    labels = {line.name: line.label for line in comparison.lines}
    assert labels["global: equal"].endswith("(best at equal bytes)")
    assert not labels["global: ample"].endswith("(best at equal bytes)")


def test_a_method_for_some_pictures_is_compared_on_those(comparison: Comparison) -> None:
    whole = next(line for line in comparison.lines if line.name == "original_whole")
    assert whole.questions == 10
    assert whole.pair_ahead.value == 1.0


def test_a_row_on_fewer_questions_than_its_neighbours_says_so(comparison: Comparison) -> None:
    """A baseline with n=2 stood beside n=8 without a word (U10)."""
    for line in comparison.lines:
        note = f"on {line.questions} of {comparison.questions} questions"
        assert (note in line.label) == (line.questions < comparison.questions)
    assert any(line.questions < comparison.questions for line in comparison.lines)


def test_a_kind_measured_in_part_says_so(records: list[Record], tmp_path: Path) -> None:
    """A run that was cut off has fewer records of the later methods (U10)."""
    some = [r for r in records if r.method != "random_crop" or r.example_id in ("0/0", "1/0")]
    findings = find(folder_of_a_run(some, tmp_path))
    row = dict(zip(kinds_table(findings).head, kinds_table(findings).rows[0], strict=True))
    assert row["random crop"] == "50.0 (n = 2)"
    assert row["always"] == "100.0"


@pytest.mark.parametrize("method", ["random_crop", "centre_crop", "oracle_crop"])
def test_a_headline_on_fewer_questions_says_so(records: list[Record], method: str) -> None:
    """The headline compared with a baseline of two questions beside those of forty, without a word (U10)."""
    some = [r for r in records if r.method != method or r.example_id in ("0/0", "1/0")]
    table = headline_table([Comparison("all", some, GATE), Comparison("most", records, GATE)])
    assert table.head == ("", "all (n = 40)", "most (n = 40)")
    fewer = {name for name, one, _ in table.rows if one.endswith(" (n = 2)")}
    assert fewer == {name for name, *_ in table.rows if method.split("_")[0] in name}
    assert not any("n =" in most for *_, most in table.rows)


def test_pictures_that_are_left_out_are_named(records: list[Record], tmp_path: Path) -> None:
    """Eight of ten pictures were reported on, and nobody said where the others were (U10)."""
    folder = folder_of_a_run(records, tmp_path, left_out=("door.jpg", "<gate>.jpg"))
    headline = write_report(folder, markdown=tmp_path / "results.md")
    assert headline["left_out"] == ["door.jpg", "<gate>.jpg"]
    assert "Left out of all results: 2 pictures" in (tmp_path / "results.md").read_text()
    assert "door.jpg, &lt;gate&gt;.jpg" in (folder / "report" / "report.html").read_text()


def test_a_run_that_was_cut_off_says_how_far_it_came(records: list[Record], tmp_path: Path) -> None:
    findings = find(folder_of_a_run(records, tmp_path, pictures=50))
    assert "40 of 50 pictures" in facts_sentence(findings)


def folder_of_a_run(
    records: list[Record], folder: Path, *, pictures: int = 40, left_out: tuple[str, ...] = ()
) -> Path:
    model = model_response(FakeEngine().info, ServerSettings()).model_copy(update={"gate": GATE})
    Facts.gather(HeldOutScenes(pictures), model, model_files=None, left_out=left_out).keep_in(folder)
    with RecordWriter(folder / RECORDS_FILE) as writer:
        writer.add(*records)
    photo = encode_jpeg(Image.fromarray(np.full((3000, 4000, 3), 90, np.uint8)), 60)
    for case in cases_of(Study(records), model):
        save_pictures(case.record, photo, folder / CASES_FOLDER)
    return folder


def test_methods_that_were_not_put_to_the_server_are_left_out(records: list[Record]) -> None:
    few = Comparison("all", [record for record in records if record.method == "always"], GATE)
    assert {line.name for line in few.lines} == {
        "global only",
        "pair",
        "always",
        "oracle gate",
        "oracle crop",
    } - {"oracle crop"}


def test_a_page_escapes_what_it_shows_and_needs_no_network() -> None:
    table = TextTable("<b>", ("", "<i>"), (("<script>alert(1)</script>", "1"),), marked=0)
    shown = page.page(
        "<title>",
        [
            page.Heading("<h3>"),
            page.Table(table),
            page.Paragraph("<p id=x>"),
            page.Plots([page.PlotFigure(b"light", b"dark", '"><u>')]),
            page.Cases([page.CaseFigure(b"jpeg", '"><q>', ["<a>"])]),
        ],
    )
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert not {"a", "h3", "i", "q", "script", "u"} & set(re.findall(r"<(\w+)", shown))
    assert "id=x>" not in shown
    assert not re.search(r"(src|href)=\"(?!data:)", shown)
    assert not re.search(r"url\(|@import|https?:", shown)


def test_a_markdown_table_marks_our_row() -> None:
    table = TextTable("T", ("a", "b"), (("x", "1"), ("y", "")), marked=1)
    assert titled_table(table).splitlines() == [
        "T:", "", "| a | b |", "| --- | ---: |", "| x | 1 |", "| **y** |  |",
    ]  # fmt: skip


def test_views_have_names_that_tell_them_apart() -> None:
    from secondglance.pictures.encoding import Recipe

    views = [
        View(Recipe("jpeg", 80)),
        View(Recipe("jpeg", 80, subsampling="4:4:4")),
        View(Recipe("webp", 80), 2.0),
    ]
    assert [view.name for view in views] == ["jpeg 4:2:0 q80 1x", "jpeg 4:4:4 q80 1x", "webp q80 2x"]


def test_a_report_is_written_from_the_folder_of_a_run(
    records: list[Record], make_record: MakeRecord, tmp_path: Path
) -> None:
    pair = [make_record(f"{i}/0", "pair", nats=2.0) for i in range(0, 40, 4)]
    folder_of_a_run([*records, *pair], tmp_path)
    headline = write_report(tmp_path, markdown=tmp_path / "docs" / "results.md")
    assert json.loads(json.dumps(headline))["reading"]["pair_vs_random_crop_points"] == 25
    assert list(headline)[:3] == ["scenes", "pair_vs_always_points", "uplink_saving_vs_always"]
    html = (tmp_path / "report" / "report.html").read_text()
    assert not re.search(r"(src|href|srcset)=\"(?!data:)|https?:", html)
    assert html.count("<figure>") == 5 + 12
    results = (tmp_path / "docs" / "results.md").read_text()
    assert "10 questions gave the same answer in 10 cases" in results
    assert all((tmp_path / "docs" / name).is_file() for name in re.findall(r"\]\((.+?)\)", results))
    for name in ("accuracy-bytes", "gate-roc", "doubt", "accuracy-by-height"):
        for suffix in ("", "-dark"):
            with Image.open(tmp_path / "report" / f"{name}{suffix}.png") as image:
                assert min(image.size) > 400


@pytest.mark.parametrize(
    ("area_of_other", "said"),
    [
        (0.95, "The default, min_entropy max, has the largest area."),
        (
            0.96005,
            "The largest area has margin max, by less than 0.01 points over the default, min_entropy max.",
        ),
        (0.9702, "The largest area has margin max (97.02 [96.02, 98.02]); the default, min_entropy max, has"),
    ],
)
def test_the_best_gate_is_named(area_of_other: float, said: str) -> None:
    areas = {GateStatistic("min_entropy", "max"): 0.96, GateStatistic("margin", "max"): area_of_other}
    figures = [
        GateFigures(gate, Estimate(0.9, 0.8, 1.0), Estimate(area, area - 0.01, area + 0.01))
        for gate, area in sorted(areas.items(), key=lambda one: -one[1])
    ]
    assert gates_sentence(figures, GateStatistic("min_entropy", "max")).startswith(said)
