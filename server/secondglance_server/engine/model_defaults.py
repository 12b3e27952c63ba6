"""Defaults that were measured for one model: `secondglance.json` in its directory, which wins over the
family's table.

Every key may be left out. Keys: `domain`, `gate` {metric, aggregate, threshold, doubt_threshold},
`localization` {attention, window, base_side, min_side_cells, pad_cells, layers, origin}, `max_new_tokens`,
`usual_new_tokens`, `recipes` {image, patch: {format, quality, scale}}. Unknown keys are refused: a misspelt
threshold must not be silently ignored.
`secondglance-eval calibrate` writes `format`, `model`, `provenance` and `expected` beside them, for people:
nothing here acts on those.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from secondglance_protocol.wire import Aggregate, Metric, Recipes
from secondglance_server.engine.protocol import GateDefaults, LocalizationDefaults

DEFAULTS_FILE = "secondglance.json"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def given(self) -> dict[str, Any]:
        """What the file says, without what it leaves open."""
        return self.model_dump(exclude_unset=True)


class GateSection(_Section):
    metric: Metric = "min_entropy"
    aggregate: Aggregate = "max"
    threshold: float = Field(default=0.0, allow_inf_nan=False)
    doubt_threshold: float | None = Field(default=None, allow_inf_nan=False)


class LocalizationSection(_Section):
    attention: str = Field(default="relative", pattern="^(plain|relative)$")
    window: str = Field(default="vicrop", pattern="^(vicrop|mass)$")
    base_side: PositiveInt = 336
    min_side_cells: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    pad_cells: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    layers: list[NonNegativeInt] = Field(default_factory=list, min_length=1)
    origin: str = DEFAULTS_FILE


class ModelDefaults(_Section):
    """`domain`: what the model can answer, in words."""

    domain: str | None = Field(default=None, max_length=1024)
    gate: GateSection = Field(default_factory=GateSection)
    localization: LocalizationSection = Field(default_factory=LocalizationSection)
    max_new_tokens: PositiveInt | None = None
    usual_new_tokens: PositiveInt | None = None
    recipes: Recipes | None = None
    format: Literal[1] = 1
    model: str | None = None
    provenance: Mapping[str, Any] | None = None
    expected: Mapping[str, Any] | None = None

    def gate_defaults(self) -> GateDefaults:
        return replace(GateDefaults(), **self.gate.given())

    def localization_defaults(self, family: LocalizationDefaults) -> LocalizationDefaults:
        given = self.localization.given()
        given.pop("layers", None)
        if given:
            given.setdefault("origin", DEFAULTS_FILE)
        return replace(family, **given)

    def layers(self, family: tuple[int, ...], n_layers: int) -> tuple[int, ...]:
        """Raises ValueError for a layer that the model does not have."""
        chosen = tuple(self.localization.layers) or family
        if max(chosen) >= n_layers:
            raise ValueError(f"{DEFAULTS_FILE}: layers {list(chosen)}, but the model has {n_layers}")
        return chosen


def read_model_defaults(directory: pathlib.Path) -> ModelDefaults:
    """The directory's defaults, or an empty one. Raises ValueError that names file and key."""
    path = directory / DEFAULTS_FILE
    if not path.is_file():
        return ModelDefaults()
    try:
        return ModelDefaults.model_validate_json(path.read_bytes())
    except ValidationError as exc:
        raise ValueError(f"{path}: {exc}") from exc
