"""What each image-text-to-text type of transformers can do here: `registry.json`, written by a survey.

`python -m tests.engine.types.survey` builds a tiny random model of each type, loads it and writes what the
probe found. Importing this loads no torch.
"""

from __future__ import annotations

import json
import pathlib
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["yes", "answers only", "no"]
REGISTRY = pathlib.Path(__file__).with_name("registry.json")


@dataclass(frozen=True, slots=True)
class ModelType:
    """One `model_type`. `reason`: how its pictures' grid is known, or why it asks for no region or is not
    served; `how`: "family file", "generic" or "" where it is not served; `shares_prefix`: whether questions
    about a picture share its computation."""

    type: str
    verdict: Verdict
    reason: str
    how: str
    shares_prefix: bool


def model_types() -> tuple[ModelType, ...]:
    """Return all types in alphabetical order."""
    return tuple(ModelType(**row) for row in json.loads(REGISTRY.read_text(encoding="utf-8")))
