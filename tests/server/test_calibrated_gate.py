"""A measured gate: read at the start, refused with key and value, from then on every request's default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from secondglance_server.app import create_app
from secondglance_server.calibrated_gate import WrongModelError, read_calibrated_gate, with_calibrated_gate
from secondglance_server.engine.fake import FAKE_INFO, FakeEngine, FakeScript
from secondglance_server.errors import SettingsError
from secondglance_server.settings import load_settings
from tests.server.exchange import ask, running_client
from tests.server.test_cli import cli

PROVENANCE = {
    "dataset": "scenes",
    "date": "2026-11-25",
    "pictures": 40,
    "questions": 400,
    "target": {"max_retransmit": 0.3},
}
GATE = {"metric": "shannon", "aggregate": "sum", "threshold": 6.0}


def write(directory: Path, **changes: Any) -> Path:
    path = directory / "gate.json"
    path.write_text(json.dumps({"model": "fake", "gate": GATE, "provenance": PROVENANCE} | changes))
    return path


async def test_the_measured_gate_is_advertised_and_decides(tmp_path: Path) -> None:
    """The fake's two words have 3 nats of Shannon entropy each, 6 in all: sure enough at 6, not at 5.9."""
    for threshold, status in ((6.0, "answered"), (5.9, "needs_patch")):
        path = write(tmp_path, gate=GATE | {"threshold": threshold})
        engine = FakeEngine(FakeScript(draft="a sign", draft_entropy_nats=2.0))
        async with running_client(engine, calibration=path) as client:
            gate = (await client.get("/v1/model")).json()["gate"]
            assert gate == GATE | {"threshold": threshold, "doubt_threshold": None}
            reply = (await ask(client)).json()
            assert (reply["status"], reply["confidence"]["metric"]) == (status, "shannon")


async def test_the_measured_doubt_threshold_is_advertised_and_decides(tmp_path: Path) -> None:
    """U3: the same answer of 6 nats, doubtful below its value and not at it; the gate asks for no region."""
    for doubt, doubtful in ((6.0, False), (5.9, True)):
        path = write(tmp_path, gate=GATE | {"threshold": 6.0, "doubt_threshold": doubt})
        engine = FakeEngine(FakeScript(draft="a sign", draft_entropy_nats=2.0))
        async with running_client(engine, calibration=path) as client:
            assert (await client.get("/v1/model")).json()["gate"]["doubt_threshold"] == doubt
            reply = (await ask(client)).json()
            assert (reply["status"], reply["doubtful"]) == ("answered", doubtful)


async def test_the_measured_recipes_are_advertised(tmp_path: Path) -> None:
    recipes = {"image": None, "patch": {"format": "webp", "quality": 50, "scale": 0.7}}
    async with running_client(FakeEngine(), calibration=write(tmp_path, recipes=recipes)) as client:
        assert (await client.get("/v1/model")).json()["recipes"] == recipes


async def test_a_request_may_still_name_its_own_gate(tmp_path: Path) -> None:
    async with running_client(FakeEngine(), calibration=write(tmp_path)) as client:
        own = {"metric": "margin", "aggregate": "first", "threshold": 0.5}
        confidence = (await ask(client, gate=own)).json()["confidence"]
        assert confidence["metric"] == "margin"


async def test_another_models_gate_stops_the_start(tmp_path: Path) -> None:
    app = create_app(load_settings(calibration=write(tmp_path, model="other")), FakeEngine())
    async with app.router.lifespan_context(app):
        assert app.state.server.readiness.has_failed


def test_a_hub_id_and_a_local_copy_are_one_model(tmp_path: Path) -> None:
    calibration = read_calibrated_gate(write(tmp_path, model="somebody/fake"))
    assert with_calibrated_gate(FAKE_INFO, calibration).gate.threshold == 6.0
    assert with_calibrated_gate(FAKE_INFO, None) == FAKE_INFO
    with pytest.raises(WrongModelError, match="model 'fake2', not for 'fake'"):
        with_calibrated_gate(FAKE_INFO, read_calibrated_gate(write(tmp_path, model="fake2")))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"gate": GATE | {"threshold": -1}}, "gate.threshold=-1: "),
        ({"gate": GATE | {"metric": "luck"}}, "gate.metric='luck': "),
        ({"gate": GATE | {"treshold": 1}}, "gate.treshold=1: Extra inputs"),
        ({"format": 2}, "format=2: "),
        ({"model": ""}, "model='': "),
    ],
)
def test_a_bad_file_is_named_with_its_key_and_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path, **changes)
    monkeypatch.setenv("SECONDGLANCE_SERVER_CALIBRATION", str(path))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"SECONDGLANCE_SERVER_CALIBRATION={str(path)!r}" in str(caught.value)
    assert complaint in str(caught.value)


def test_a_file_that_is_not_there_or_no_json_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.json")
    with pytest.raises(SettingsError, match=r"none\.json: No such file"):
        load_settings(calibration=missing)
    path = tmp_path / "text.json"
    path.write_text("hello")
    with pytest.raises(SettingsError, match=r"text\.json: Invalid JSON"):
        load_settings(calibration=str(path))


def test_the_command_line_takes_a_file_and_stops_at_a_bad_one(tmp_path: Path) -> None:
    result = cli("serve", "--calibration", str(tmp_path / "none.json"))
    assert result.returncode == 2
    assert "SECONDGLANCE_SERVER_CALIBRATION=" in result.stderr
    assert "Traceback" not in result.stderr
