"""The table of model types is what a survey of the installed transformers finds now."""

from __future__ import annotations

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from secondglance_server.engine.adapters import discover
from secondglance_server.engine.generic.registry import model_types
from tests.engine.types import all_rows, with_torchvision
from tests.engine.types.survey import survey

# transformers' own, as in test_types.py
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# one that shares prefixes, one that runs whole prompts, one that only answers; `make test-families` has all
SAMPLE = {"qwen2_vl", "paligemma", "blip-2"}
BUILT = sorted({*all_rows(), *discover()} & set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES))
KNOWN = {row.type: row for row in model_types()}


def test_the_registry_names_every_type_once() -> None:
    assert [row.type for row in model_types()] == sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def test_types_without_a_random_model_have_the_surveys_reason() -> None:
    for model_type in sorted(set(KNOWN) - set(BUILT) - set(with_torchvision.TYPES)):
        assert KNOWN[model_type] == survey(model_type)


@pytest.mark.parametrize(
    "model_type", [pytest.param(t, marks=() if t in SAMPLE else pytest.mark.slow) for t in BUILT]
)
def test_a_random_model_does_what_the_registry_says(model_type: str) -> None:
    """A row once said "not tried" of a type that had a random model: the survey had not run since."""
    assert survey(model_type) == KNOWN[model_type]
