"""The probe accepts the right grid of every kind and refuses wrong ones; what it refuses only answers."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from secondglance_server.engine.attention import register_capture
from secondglance_server.engine.generic import load as generic_load
from secondglance_server.engine.generic import probe
from secondglance_server.engine.generic.adapter import GenericAdapter
from secondglance_server.engine.generic.grids import Grid, Seen, by_shapes, centred, cornered, whole
from secondglance_server.engine.generic.probe import ENOUGH, Sensitivity, find_grid, hit_rate
from secondglance_server.engine.generic.stock import StockEngine
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, Picture
from tests.engine.tiny.parts import picture
from tests.engine.types import free, squares, tiles
from tests.engine.types.row import build

ROWS = {**squares.ROWS, **free.ROWS, **tiles.ROWS}
# a padded square, tiles behind a view, a view behind tiles, rows between separators, a grid of patches
KINDS = ("vipllava", "llava_next", "aya_vision", "mistral3", "qwen2_vl")


def transposed(grid: Grid) -> Grid:
    """Cells read column by column."""
    cells = [grid.cells[col * grid.rows + row] for row in range(grid.rows) for col in range(grid.cols)]
    return Grid(grid.rows, grid.cols, tuple(cells))


def shifted(grid: Grid) -> Grid:
    """A class token or newline taken for the first cell."""
    return Grid(grid.rows, grid.cols, (grid.cells[-1], *grid.cells[:-1]))


def separated(grid: Grid) -> Grid:
    """A token after each row that is not there."""
    last = len(grid.cells) - 1
    places = [row * (grid.cols + 1) + col for row in range(grid.rows) for col in range(grid.cols)]
    return Grid(grid.rows, grid.cols, tuple(grid.cells[min(place, last)] for place in places))


def cut_otherwise(grid: Grid) -> Grid:
    """Twice the rows of half the length."""
    return Grid(grid.rows * 2, grid.cols // 2, grid.cells)


_TILED: dict[str, GenericAdapter] = {}  # loaded once
WRONG: tuple[Callable[[Grid], Grid], ...] = (transposed, shifted, separated, cut_otherwise)


@pytest.fixture(scope="module", params=KINDS)
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GenericAdapter:
    directory = tmp_path_factory.mktemp(request.param)
    build(request.param, ROWS[request.param], directory)
    engine: Any = load_engine(str(directory), device="cpu", dtype="float32")
    found: GenericAdapter = engine.adapter
    return found


def grids_of(adapter: GenericAdapter, size: tuple[int, int]) -> tuple[Grid, tuple[float, ...]]:
    layout = adapter.layout(*size)
    return Grid(layout.rows, layout.cols, tuple(layout.cells_of_run())), layout.content


@pytest.mark.parametrize("size", [(56, 56), (112, 56), (56, 112)])
def test_the_right_grid_is_accepted(adapter: GenericAdapter, size: tuple[int, int]) -> None:
    grid, content = grids_of(adapter, size)
    assert hit_rate(Sensitivity(adapter), grid, content, *size) >= ENOUGH  # type: ignore[arg-type]


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_a_wrong_grid_is_refused(adapter: GenericAdapter, spoil: Callable[[Grid], Grid]) -> None:
    """On a wide, a tall or a square picture at the least: a load looks at several."""
    seen = Sensitivity(adapter)
    rates = []
    for size in ((56, 56), (112, 56), (56, 112)):
        grid, content = grids_of(adapter, size)
        rates.append(hit_rate(seen, spoil(grid), content, *size))  # type: ignore[arg-type]
    assert min(rates) < ENOUGH, rates


@pytest.mark.parametrize("size", [(125, 62), (62, 125), (16, 8), (61, 87), (96, 48)])
@pytest.mark.parametrize("model_type", ["qianfan_ocr", "aya_vision"])
def test_no_tile_is_taken_for_the_picture(
    model_type: str, size: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At 125 x 62 a bright square of the right half shone into the tile of the left one by half a pixel, and
    that tile passed for the whole picture."""
    if model_type not in _TILED:
        directory = tmp_path_factory.mktemp(model_type)
        build(model_type, ROWS[model_type], directory)
        engine: Any = load_engine(str(directory), device="cpu", dtype="float32")
        _TILED[model_type] = engine.adapter
    tiled = _TILED[model_type]
    right, content = grids_of(tiled, size)
    seen, n, run = Sensitivity(tiled), len(right.cells), tiled.layout(*size).run
    assert run > n
    for start in range(0, run - n + 1, n):
        cells = tuple(range(start, start + n))
        rate = hit_rate(seen, Grid(right.rows, right.cols, cells), content, *size)  # type: ignore[arg-type]
        assert (rate >= ENOUGH) == (cells == right.cells), (cells, rate)


def test_wrong_padding_is_refused(adapter: GenericAdapter) -> None:
    seen = Sensitivity(adapter)
    for content in {whole, centred, cornered} - {adapter.content_rule}:
        rates = [hit_rate(seen, grids_of(adapter, s)[0], content(*s), *s) for s in ((112, 56), (56, 112))]
        assert min(rates) < ENOUGH, content


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_a_model_whose_grid_is_wrong_only_answers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Grid], Grid]
) -> None:
    """Every rule is wrong on purpose; at the end of the load the model says that no grid holds."""
    build("qwen2_vl", ROWS["qwen2_vl"], tmp_path)

    def wrong(rule: Any) -> Any:
        def spoilt(seen: Seen) -> Grid | None:
            grid = rule(seen)
            return None if grid is None else spoil(grid)

        return spoilt

    stock_rules = probe.rules
    monkeypatch.setattr(probe, "rules", lambda: [(name, wrong(rule)) for name, rule in stock_rules()])
    engine = load_engine(str(tmp_path), device="cpu", dtype="float32")
    assert isinstance(engine, StockEngine)
    assert "no supposed grid holds" in str(engine.info.answers_only)


def test_a_processor_that_gives_nothing_away_is_not_guessed_at(
    adapter: GenericAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "rules", lambda: [("nothing", lambda seen: None)])
    with pytest.raises(ValueError, match="names a grid of tokens"):
        find_grid(adapter, generic_load.probe_sizes(adapter.image))


def test_an_engine_that_answers_otherwise_runs_whole_prompts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions that are wrong by one behind the picture: the shared prefix is not used, and that is said."""
    build("qwen2_vl", ROWS["qwen2_vl"], tmp_path)
    stock_positions = GenericAdapter.positions

    def wrong(self: GenericAdapter, ids: Any, layouts: Any) -> Any:
        positions = stock_positions(self, ids, layouts).clone()
        positions[:, -3:] += 1
        return positions

    monkeypatch.setattr(GenericAdapter, "positions", wrong)
    engine = load_engine(str(tmp_path), device="cpu", dtype="float32")
    assert isinstance(engine, StockEngine)
    assert engine.info.answers_only is None
    assert any("every prompt runs whole" in note for note in engine.info.notes)


def test_a_tile_is_not_taken_for_the_picture(tmp_path: pathlib.Path) -> None:
    """The last of two tiles passed for the whole picture: a square in the other changed none of its tokens,
    and the strongest of no changes was the first cell's."""
    build("minicpmv4_6", ROWS["minicpmv4_6"], tmp_path)
    engine: Any = load_engine(str(tmp_path), device="cpu", dtype="float32")
    adapter = engine.adapter
    seen = Sensitivity(adapter)
    for width, height in generic_load.probe_sizes(adapter.image):
        layout = adapter.layout(width, height)
        inputs = adapter.read_inputs(width, height)
        of_tile = by_shapes(adapter.seen(width, height, layout.stretches, inputs))
        assert len(layout.stretches) == 3
        assert of_tile is not None
        assert of_tile.cells[0] == sum(layout.stretches[:2])
        assert hit_rate(seen, of_tile, whole(width, height), width, height) < ENOUGH


def test_a_model_that_answers_otherwise_when_it_is_read_is_not_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers with an index over their tokens forgot it under the capturing kernel's name, and nothing saw it:
    shared prefixes were compared with a model that was read too."""

    def forgetful(*args: Any, scaling: float, **kwargs: Any) -> Any:
        return ALL_ATTENTION_FUNCTIONS[capturing](*args, scaling=0.1 * scaling, **kwargs)

    capturing = register_capture("sdpa")

    def registered(base: str) -> str:
        ALL_ATTENTION_FUNCTIONS.register("forgetful", forgetful)
        ALL_MASK_ATTENTION_FUNCTIONS.register("forgetful", ALL_MASK_ATTENTION_FUNCTIONS[base])
        return "forgetful"

    tiny = build("qwen2_vl", ROWS["qwen2_vl"], tmp_path)
    monkeypatch.setattr(generic_load, "register_capture", registered)
    engine = load_engine(str(tmp_path), device="cpu", dtype="float32")
    assert isinstance(engine, StockEngine)
    assert (engine.info.answers_only or "").startswith("reading its attention would change its answers")
    rgb = picture(40, 72)
    (result,) = engine.answer([AnswerRequest(Picture("", rgb), "What is it?", max_new_tokens=1)])
    assert isinstance(result, AnswerResult)
    with torch.inference_mode():
        logits = tiny.model(**tiny.stock_inputs("What is it?", [rgb])).logits[0, -1]
    assert result.tokens[0].min_entropy == pytest.approx(-float(logits.log_softmax(-1).max()), abs=1e-4)


# transformers' own, as in test_types.py
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("model_type", ["qwen2_vl", "paligemma"])
def test_m7_a_logits_processor_is_honoured_or_said_on_the_generic_path(
    model_type: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """M7: a shared prefix ignored a repetition penalty in silence, or the probe called it a wrong cache."""
    directory = tmp_path_factory.mktemp(model_type)
    build(model_type, ROWS[model_type], directory)
    plain = load_engine(str(directory), device="cpu", dtype="float32")
    path = directory / "generation_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**config, "repetition_penalty": 1.5}))
    engine = load_engine(str(directory), device="cpu", dtype="float32")
    assert type(engine) is type(plain)
    said = any("repetition_penalty=1.5 is not applied" in note for note in engine.info.notes)
    assert said == isinstance(engine, PrefixEngine)


def test_a_rule_without_a_grid_for_odd_sizes_is_not_taken(
    adapter: GenericAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A type whose rule held for a wide and a tall picture failed at 101 x 37, with a client's picture."""
    sizes = generic_load.probe_sizes(adapter.image)
    found = find_grid(adapter, sizes)

    def round_only(rule: Any) -> Any:
        return lambda seen: None if (seen.width, seen.height) == (101, 37) else rule(seen)

    monkeypatch.setattr(probe, "rules", lambda: [("round sizes", round_only(found.rule))])
    with pytest.raises(ValueError, match="names a grid"):
        find_grid(adapter, sizes)
