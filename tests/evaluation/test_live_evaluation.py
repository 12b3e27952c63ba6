"""A small evaluation of the embedded model over real HTTP: what `make evaluate` does with 1,000 scenes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secondglance import EdgeClient, EdgeSettings
from secondglance_eval.asking.methods import GLOBAL_PREFIX
from secondglance_eval.asking.records import Record, read_records
from secondglance_eval.campaign import RECORDS_FILE
from secondglance_eval.cli import app
from secondglance_eval.datasets.held_out import HeldOutScenes
from secondglance_eval.datasets.seeds import CALIBRATION_SEED
from secondglance_eval.judging.gates import GateStatistic
from secondglance_eval.judging.study import Study
from secondglance_server.engine.loader import EMBEDDED_WEIGHTS
from secondglance_server.testing import serving

SCENES = 4
KEYS = (
    "scenes",
    "pair_vs_always_points",
    "uplink_saving_vs_always",
    "pair_vs_random_crop_points",
    "pair_vs_centre_crop_points",
    "pair_vs_equal_bytes_points",
    "pair_vs_oracle_points",
    "bytes_vs_original",
)
pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]  # half a minute on two idle cores


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation")
    run(out)
    return out


@pytest.fixture(scope="module")
def records(folder: Path) -> list[Record]:
    return list(read_records(folder / RECORDS_FILE))


def run(out: Path) -> None:
    arguments = [
        "run",
        "--out",
        str(out),
        "--pictures",
        str(SCENES),
        "--choice-pictures",
        "1",
        "--workers",
        "1",
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_every_question_was_asked_under_every_method(records: list[Record]) -> None:
    examples = [example for group in HeldOutScenes(SCENES) for example in group]
    counts = Counter(record.method for record in records)
    for method in ("always", "random_crop", "centre_crop", "pair"):
        assert counts[method] == len(examples)
    assert counts["oracle_crop"] == sum(example.box is not None for example in examples)
    assert counts["original_whole"] == len(examples)  # so few pictures are not sampled
    assert sum(method.startswith(GLOBAL_PREFIX) for method in counts) >= 2


def test_the_pair_computed_from_always_is_the_pair_over_the_wire(records: list[Record]) -> None:
    """Answer, stage and, to the byte, what was sent."""
    study = Study(records)
    computed, asked = (
        study.pair(GateStatistic("min_entropy", "max"), _threshold(records)),
        study.measured("pair"),
    )
    assert computed.second.tolist() == asked.second.tolist()
    assert computed.score.tolist() == asked.score.tolist()
    assert computed.uplink.tolist() == asked.uplink.tolist()
    assert abs(computed.downlink - asked.downlink).max() < 64  # timings are numbers of varying length


def test_every_method_starts_from_the_same_draft(records: list[Record]) -> None:
    drafts: dict[str, set[tuple[str, int]]] = {}
    for record in records:
        if record.method in ("always", "pair", "random_crop", "centre_crop", "oracle_crop"):
            said = (record.draft_answer, record.first.uplink_bytes)
            drafts.setdefault(record.example_id, set()).add(said)
    assert all(len(said) == 1 for said in drafts.values())


def test_every_question_uploads_its_picture_anew(records: list[Record]) -> None:
    by_picture: dict[str, list[int]] = {}
    for record in records:
        if record.method == "always":
            by_picture.setdefault(record.image_id, []).append(record.first.uplink_bytes)
    assert all(max(sent) - min(sent) < 64 for sent in by_picture.values())  # questions differ in length


def test_the_original_whole_costs_what_it_weighs(records: list[Record]) -> None:
    whole = [record for record in records if record.method == "original_whole"]
    assert all(0 < record.uplink_bytes - record.original_bytes < 1024 for record in whole)


def test_the_pair_sends_less_than_always_and_a_fraction_of_the_original(records: list[Record]) -> None:
    study = Study(records)
    pair, always = study.measured("pair"), study.measured("always")
    assert pair.uplink.sum() < always.uplink.sum()
    assert pair.uplink.sum() * 20 < study.original_bytes.sum()


def test_a_run_that_is_complete_asks_nothing(folder: Path) -> None:
    before = (folder / RECORDS_FILE).read_bytes()
    run(folder)
    assert (folder / RECORDS_FILE).read_bytes() == before


def test_the_report_ends_in_one_line_of_json(folder: Path) -> None:
    result = CliRunner().invoke(app, ["report", "--out", str(folder)], catch_exceptions=False)
    figures = json.loads(result.stdout.splitlines()[-1])
    assert tuple(figures)[: len(KEYS)] == KEYS
    assert figures["scenes"] == SCENES
    assert (folder / "report" / "report.html").is_file()


def test_anybodys_own_pictures_are_measured_and_reported(tmp_path: Path) -> None:
    """No boxes, so nothing is said about the true crop."""
    rows = []
    for group in HeldOutScenes(4):
        (tmp_path / f"{group[0].image_id}.jpg").write_bytes(group[0].image())
        rows += [
            {"image": f"{one.image_id}.jpg", "question": one.question, "answers": list(one.answers)}
            for one in group[:3]
        ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, page = tmp_path / "out", tmp_path / "results.md"
    arguments = ["run", "--dataset", f"jsonl:{tmp_path / 'own.jsonl'}", "--out", str(out), "--workers", "1"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    arguments = ["report", "--out", str(out), "--markdown", str(page)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["scenes"] == 3  # the fourth picture is for the choice of encodings
    assert figures["pair_vs_oracle_points"] is None
    assert isinstance(figures["pair_vs_equal_bytes_points"], float)
    assert "nan" not in page.read_text()


def test_recipes_are_chosen_over_http_and_edges_then_send_what_was_measured(tmp_path: Path) -> None:
    """Two scenes, one way to encode each; what the written file makes an edge send is what was measured."""
    weights = tmp_path / "model"
    shutil.copytree(EMBEDDED_WEIGHTS, weights)
    path, out = weights / "secondglance.json", tmp_path / "out"
    arguments = ["recipes", "--model", str(weights), "--pictures", "2", "--out", str(out)]
    arguments += ["--image", "webp:30:0.8", "--patch", "webp:40", "--max-points-lost", "100"]
    first = CliRunner().invoke(app, [*arguments, "--write", str(path)], catch_exceptions=False)
    assert first.exit_code == 0, first.output
    chosen = json.loads(first.stdout.splitlines()[-1])
    assert chosen["recipes"]["image"] == {"format": "webp", "quality": 30, "scale": 0.8}
    assert json.loads(path.read_text())["recipes"] == chosen["recipes"]
    (shown,) = chosen["sets"].values()
    assert shown["bytes_ratio"][0] < 0.9
    sent = []
    dataset = HeldOutScenes(2, CALIBRATION_SEED)
    settings = EdgeSettings.model_construct(remembered_images=0)
    with serving("--model", str(weights)) as url, EdgeClient(url, settings=settings) as edge:
        for group in dataset:
            photo = group[0].image()
            receipts = [edge.ask(photo, example.question).receipt for example in group]
            sent += [each.uplink_bytes - each.setup.uplink_bytes for each in receipts]
    assert sum(sent) / len(sent) == pytest.approx(shown["uplink_bytes"][0], abs=0.1)


def _threshold(records: list[Record]) -> float:
    """Any value between the doubts of answers that were and were not asked again, as the server judged."""
    study = Study(records)
    doubt, asked = study.doubts(GateStatistic("min_entropy", "max")), study.measured("pair").second > 0
    low, high = doubt[~asked].max(), doubt[asked].min()
    assert low < high
    return float((low + high) / 2)
