"""M4: Idefics3 and SmolVLM with patches that do not fill the side, as 384 and 14 on the hub."""

from __future__ import annotations

import importlib
import json
import pathlib

import numpy as np
import pytest

from tests.engine import test_equalities as equalities
from tests.engine.conftest import load_family
from tests.engine.tiny import idefics3


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_m4_the_grid_ends_before_the_picture_and_pixels_are_those_of_one_tile(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M4: the last pixels lay outside the grid, but `content` said that the grid covers the picture.

    A saved tile size other than the encoder's side gave other pixels than stock's one-tile path.
    """
    module = importlib.import_module(f"tests.engine.tiny.{name}")
    for place in {idefics3, module}:
        monkeypatch.setattr(place, "SIDE", 62)
        monkeypatch.setattr(place, "PATCH", 14)
    family = load_family(name, tmp_path)
    saved = tmp_path / "preprocessor_config.json"
    options = json.loads(saved.read_text())
    saved.write_text(json.dumps(options | {"max_image_size": {"longest_edge": 48}}))
    family.engine.adapter.image_processor = type(family.engine.adapter).load_image_processor(
        str(tmp_path), family.engine.adapter.config
    )
    assert family.engine.adapter.layout(72, 40).content == pytest.approx((0.0, 0.0, 62 / 56, 62 / 56))
    inputs = family.tiny.stock_inputs("What?", [equalities.LANDSCAPE])
    ours = family.engine.adapter.pixels(equalities.LANDSCAPE)["pixel_values"]
    np.testing.assert_allclose(ours, inputs["pixel_values"], atol=1e-6)
    (result,) = equalities.answer(family, equalities.ask(family, "What?", equalities.LANDSCAPE))
    equalities.assert_same(family, result, equalities.stock_generate(family, "What?", equalities.LANDSCAPE))
