"""Marks for tests that need more than Python: a skip says what would run the test."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest


def needs_program(name: str, *, package: str) -> pytest.MarkDecorator:
    """Skip where `name` is not on the PATH; `package` is the Debian package that brings it."""
    reason = f"{name} is not installed: apt-get install {package}"
    return pytest.mark.skipif(shutil.which(name) is None, reason=reason)


def needs_module(name: str, *, package: str) -> pytest.MarkDecorator:
    """Skip where the module `name` cannot be found; `package` is the one on PyPI that brings it."""
    reason = f"{name} is not installed: pip install {package}"
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=reason)


needs_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="reads memory from /proc: Linux, no package"
)
