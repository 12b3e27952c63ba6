"""What `secondglance-eval calibrate` measured for one model on one set of questions, as a JSON file.

It holds the gate, and with `--localization` layer and window, too. It wins over the model's own
`secondglance.json`, and may be laid beside the weights as that file. `provenance` and `expected` tell people
where it comes from; only `gate`, `localization`, `recipes` and `model` are acted upon. A file for
another model stops the start: a threshold says nothing about another model's entropies.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from secondglance_protocol.wire import DefaultGate, Recipes
from secondglance_server.engine.model_defaults import LocalizationSection
from secondglance_server.engine.protocol import EngineInfo, GateDefaults


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Frozen):
    """A mean over the test split with its 95 % interval."""

    mean: float
    low: float
    high: float


class Provenance(_Frozen):
    """What was measured: `target` is the wish by name; `pictures` and `questions` count both splits."""

    dataset: str
    date: datetime.date
    pictures: PositiveInt
    questions: PositiveInt
    target: Mapping[str, float]


class CalibratedGate(_Frozen):
    """`model` is the name that the server was given; `expected` what the test split showed."""

    format: Literal[1] = 1
    model: str = Field(min_length=1)
    gate: DefaultGate
    localization: LocalizationSection | None = None
    recipes: Recipes | None = None
    provenance: Provenance
    expected: Mapping[str, Estimate] = Field(default_factory=dict)


class WrongModelError(Exception):
    """The calibration was measured with another model than the one that is served."""


def read_calibrated_gate(path: Path) -> CalibratedGate:
    """Raises ValueError naming file, key and value."""
    try:
        return CalibratedGate.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise ValueError(f"{path}: {exc.strerror or exc}") from exc
    except ValidationError as exc:
        raise ValueError(f"{path}: {'; '.join(map(_complaint, exc.errors(include_url=False)))}") from exc


def with_calibrated_gate(info: EngineInfo, measured: CalibratedGate | None) -> EngineInfo:
    """Return the model's facts with the measured gate. Raises WrongModelError.

    Models are compared by the last part of their names, so that a hub id and a local copy are one.
    """
    if measured is None:
        return info
    if Path(measured.model).name != Path(info.name).name:
        raise WrongModelError(f"the calibration is for model {measured.model!r}, not for {info.name!r}")
    gate = GateDefaults(**measured.gate.model_dump())
    return replace(info, gate=gate, recipes=measured.recipes or info.recipes)


def _complaint(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    return f"{key}={error['input']!r}: {error['msg']}" if key else str(error["msg"])
