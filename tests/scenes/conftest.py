"""Held-out scenes only: their fonts come with pip, the training fonts are not on every machine."""

from __future__ import annotations

import pytest

from scenes.generator import Scene, make_scene

SEEDS = range(60)


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Described, not rendered."""
    return [make_scene(seed, split="test") for seed in SEEDS]
