"""How much of it: `make test` runs a short version of each long check, `make hardening` the whole."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def is_full() -> bool:
    return os.environ.get("SECONDGLANCE_HARDENING") == "full"
