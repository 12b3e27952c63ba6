"""`secondglance.json`: what it says wins, what it leaves open stays, what it misspells is refused."""

from __future__ import annotations

import json
import pathlib

import pytest

from secondglance_server.engine.model_defaults import ModelDefaults, read_model_defaults
from secondglance_server.engine.protocol import GateDefaults, LocalizationDefaults

FAMILY = LocalizationDefaults(base_side=448, origin="the family's table")


def read(directory: pathlib.Path, content: object) -> ModelDefaults:
    (directory / "secondglance.json").write_text(json.dumps(content), encoding="utf-8")
    return read_model_defaults(directory)


def test_without_a_file_the_familys_defaults_hold(tmp_path: pathlib.Path) -> None:
    calibration = read_model_defaults(tmp_path)
    assert calibration.gate_defaults() == GateDefaults()
    assert calibration.localization_defaults(FAMILY) == FAMILY
    assert calibration.layers((3,), 8) == (3,)


def test_a_file_overrides_what_it_names_only(tmp_path: pathlib.Path) -> None:
    calibration = read(
        tmp_path,
        {
            "gate": {"metric": "shannon", "threshold": 1.25},
            "localization": {"attention": "plain", "window": "mass", "layers": [2, 3], "pad_cells": 1},
            "max_new_tokens": 12,
        },
    )
    assert calibration.gate_defaults() == GateDefaults(metric="shannon", aggregate="max", threshold=1.25)
    localization = calibration.localization_defaults(FAMILY)
    assert (localization.attention, localization.window, localization.pad_cells) == ("plain", "mass", 1.0)
    assert localization.base_side == 448
    assert localization.origin == "secondglance.json"
    assert calibration.layers((1,), 8) == (2, 3)
    assert calibration.max_new_tokens == 12


@pytest.mark.parametrize(
    "content",
    [
        {"gate": {"treshold": 1}},
        {"gate": {"metric": "guess"}},
        {"localization": {"layers": []}},
        {"localization": {"layers": [-1]}},
        {"localization": {"window": "triangle"}},
        {"max_new_tokens": 0},
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: pathlib.Path, content: object) -> None:
    with pytest.raises(ValueError, match=r"secondglance\.json"):
        read(tmp_path, content)


def test_a_layer_that_the_model_does_not_have_is_refused(tmp_path: pathlib.Path) -> None:
    calibration = read(tmp_path, {"localization": {"layers": [8]}})
    with pytest.raises(ValueError, match=r"layers \[8\], but the model has 8"):
        calibration.layers((1,), 8)


def test_the_page_shows_a_file_that_is_understood(tmp_path: pathlib.Path) -> None:
    page = pathlib.Path(__file__).parents[2] / "docs" / "adding-a-model.md"
    (_, rest) = page.read_text(encoding="utf-8").split("```json\n")
    calibration = read(tmp_path, json.loads(rest.split("```")[0]))
    assert calibration.layers((1,), 32) == (14,)
