"""`python -m training`: all stages in order, or the named ones."""

from __future__ import annotations

import json
import pathlib
import sys
from unittest.mock import create_autospec

import pytest

from training import __main__ as command
from training import decoder_stage, joint_stage, tower_stage


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that were run; their real signatures decide whether the calls are good."""
    names: list[str] = []

    def stands_for(name: str, real: object, result: object = None) -> object:
        def note(*_: object, **__: object) -> object:
            names.append(name)
            return result

        return create_autospec(real, side_effect=note)

    monkeypatch.setattr(command, "render_all", stands_for("render", command.render_all))
    monkeypatch.setattr(command, "export", stands_for("export", command.export, 123))
    for name, module in (("tower", tower_stage), ("decoder", decoder_stage), ("joint", joint_stage)):
        monkeypatch.setattr(module, "train", stands_for(name, module.train))
    return names


def test_every_stage_runs_in_order_with_its_own_defaults(
    ran: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two stages once demanded a number of steps that nobody gave."""
    monkeypatch.setattr(sys, "argv", ["training", "--root", str(tmp_path / "new")])
    command.main()
    assert ran == ["render", "tower", "decoder", "joint", "export"]
    assert (tmp_path / "new").is_dir()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"python", "machine", "torch", "transformers", "numpy", "PIL"} == set(rows[0])
    assert {"bytes": 123} in rows
    assert [r["stage"] for r in rows if "stage" in r] == ran


def test_single_stages_can_be_named(
    ran: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["training", "--root", str(tmp_path), "--stage", "joint", "--stage", "export"]
    monkeypatch.setattr(sys, "argv", arguments)
    command.main()
    assert ran == ["joint", "export"]


def test_an_unknown_stage_is_a_usage_error(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["training", "--stage", "nothing"])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2
    assert "nothing" in capsys.readouterr().err
    assert ran == []
