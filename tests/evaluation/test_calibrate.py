"""`calibrate` on the real embedded model over HTTP, and the server that loads what it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scenes.generator import encode_jpeg, make_scene, render
from secondglance import EdgeClient
from secondglance_eval.asking.asker import Asker
from secondglance_eval.asking.prefetch import Group
from secondglance_eval.asking.records import read_records
from secondglance_eval.asking.run import Pace
from secondglance_eval.campaign import RECORDS_FILE
from secondglance_eval.cli import app
from secondglance_eval.datasets.example import Example, exact_match
from secondglance_eval.errors import CalibrationError
from secondglance_eval.facts import Facts
from secondglance_eval.judging.calibration import always_ask, one_target
from secondglance_eval.judging.gate_choice import TargetKind, halves
from secondglance_eval.judging.localization import calibrate_localization
from secondglance_server.calibrated_gate import read_calibrated_gate
from secondglance_server.settings import ServerSettings
from secondglance_server.testing import serving

pytestmark = pytest.mark.live

SIZE = (1200, 900)
PICTURES = 20
QUESTIONS = 4
# One thread: two that share a busy core wait for each other, for minutes.
SERVER: dict[str, Any] = {"environment": {"OMP_NUM_THREADS": "1"}, "ready_timeout_s": 240.0}


@dataclass(frozen=True, slots=True)
class SmallScene:
    """Small enough to be rendered in a fraction of a second."""

    seed: int

    def __call__(self) -> bytes:
        return encode_jpeg(render(make_scene(self.seed, split="test", size=SIZE)), 90)


class SmallScenes:
    name = "small scenes"

    def __len__(self) -> int:
        return PICTURES

    def __iter__(self) -> Iterator[Group]:
        for seed in range(402_000, 402_000 + PICTURES):
            questions = make_scene(seed, split="test", size=SIZE).questions[:QUESTIONS]
            yield tuple(
                Example(
                    f"{seed}/{n}", str(seed), q.text, (q.answer,), q.kind, SmallScene(seed), SIZE[0], SIZE[1]
                )
                for n, q in enumerate(questions)
            )

    def score(self, prediction: str, example: Example) -> float:
        return exact_match(prediction, example)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every question of the small scenes with both stages."""
    out = tmp_path_factory.mktemp("calibration")
    dataset = SmallScenes()
    with serving(**SERVER) as url, Asker(url, dataset.score) as asker:
        Facts.gather(dataset, asker.model, model_files=None).keep_in(out)
        always_ask(dataset, asker, out, pace=Pace(parallel=2, workers=1))
    return out


def run_cli(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["calibrate", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("kind", "value"), [("max_retransmit", 0.3), ("max_uplink_bytes", 16_000.0), ("target_accuracy", 0.6)]
)
def test_each_wish_is_granted_on_the_embedded_model(
    folder: Path, tmp_path: Path, kind: TargetKind, value: float
) -> None:
    path = tmp_path / "gate.json"
    option = f"--{kind.replace('_', '-')}"
    code, output, complaint = run_cli("--out", str(folder), option, str(value), "--write", str(path))
    assert (code, complaint) == (0, "")
    assert "the interval reaches the target" in output
    calibration = read_calibrated_gate(path)
    assert json.loads(output.splitlines()[-1]) == json.loads(calibration.model_dump_json())
    assert (calibration.model, calibration.provenance.dataset) == ("embedded", "small scenes")
    assert calibration.provenance.pictures == PICTURES


def test_a_server_with_the_file_calls_doubtful_what_was_said(folder: Path, tmp_path: Path) -> None:
    """U3: how sure a final answer is, with the model's own gate, from `--precision` alone to the reply."""
    path = tmp_path / "gate.json"
    code, output, complaint = run_cli("--out", str(folder), "--precision", "0.6", "--write", str(path))
    assert (code, complaint) == (0, "")
    assert "the interval reaches the precision 0.6" in output
    calibration = read_calibrated_gate(path)
    _, tested_on = halves(list(read_records(folder / RECORDS_FILE)), 0.5)
    pictures = {record.image_id: SmallScene(int(record.image_id))() for record in tested_on}
    server = serving("--calibration", str(path), **SERVER)
    with server as url, EdgeClient(url) as client:
        assert client.model().gate == calibration.gate
        replies = [client.ask(pictures[record.image_id], record.question) for record in tested_on]
    sure = sum(not reply.doubtful for reply in replies) / len(replies)
    assert sure == pytest.approx(calibration.expected["sure"].mean, abs=0.03)


def test_a_server_with_the_file_asks_again_as_often_as_was_said(folder: Path, tmp_path: Path) -> None:
    """The half that the gate was not chosen on, now really asked with the gate in force."""
    path = tmp_path / "gate.json"
    assert run_cli("--out", str(folder), "--max-retransmit", "0.35", "--write", str(path))[0] == 0
    calibration = read_calibrated_gate(path)
    _, tested_on = halves(list(read_records(folder / RECORDS_FILE)), 0.5)
    pictures = {record.image_id: SmallScene(int(record.image_id))() for record in tested_on}
    server = serving("--calibration", str(path), **SERVER)
    with server as url, EdgeClient(url) as client:
        assert client.model().gate == calibration.gate
        replies = [client.ask(pictures[record.image_id], record.question) for record in tested_on]
    rate = sum(reply.stage == 2 for reply in replies) / len(replies)
    right = sum(
        reply.answer in record.answers for reply, record in zip(replies, tested_on, strict=True)
    ) / len(replies)
    # a batch adds up in another order, so one question on the threshold may fall to either side
    assert rate == pytest.approx(calibration.expected["retransmit_rate"].mean, abs=0.03)
    assert right == pytest.approx(calibration.expected["accuracy"].mean, abs=0.03)


def test_one_wish_at_a_time() -> None:
    for wishes in ((), ("--max-retransmit", "0.3", "--target-accuracy", "0.9")):
        code, _, complaint = run_cli(*wishes)
        assert code == 1
        assert "exactly one of --max-retransmit, --max-uplink-bytes, --target-accuracy" in complaint


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    code, _, complaint = run_cli("--out", str(tmp_path), "--max-retransmit", "0.3")
    assert code == 1
    assert f"{tmp_path} holds no records" in complaint


def test_a_dataset_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, _, complaint = run_cli("--max-retransmit", "0.3", "--dataset", f"textvqa:{tmp_path}")
    assert code == 1
    assert "TextVQA_0.5.1_val.json" in complaint
    assert (
        "data set 'imagenet': one of scenes, textures, jsonl:FILE"
        in run_cli("--max-retransmit", "0.3", "--dataset", "imagenet")[2]
    )


def test_a_wish_has_a_name() -> None:
    wishes = {"max_retransmit": None, "max_uplink_bytes": 5000.0, "target_accuracy": None}
    assert one_target(**wishes).kind == "max_uplink_bytes"
    with pytest.raises(CalibrationError):
        one_target(**dict.fromkeys(wishes, 0.5))


@pytest.mark.parametrize("arguments", [(), ("--dataset", "scenes", "--url", "http://127.0.0.1:9")])
def test_localization_needs_pictures_and_the_model_itself(arguments: tuple[str, ...]) -> None:
    code, _, complaint = run_cli("--localization", *arguments)
    assert code == 2
    assert "--localization needs a --dataset with boxes" in complaint


def test_questions_without_boxes_are_named() -> None:
    with pytest.raises(CalibrationError, match="no question has a box"):
        calibrate_localization(SmallScenes(), ServerSettings(), workers=1)
