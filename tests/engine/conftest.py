"""Tiny random models of the real classes, with tokenizers and processors made on the spot; nothing is
downloaded."""

from __future__ import annotations

import importlib
import pathlib
import pkgutil
from dataclasses import dataclass

import pytest
import torch

import tests.engine.tiny
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.prefix import PrefixEngine
from tests.engine.tiny.parts import Tiny

torch.set_num_threads(1)

FAMILIES = sorted(m.name for m in pkgutil.iter_modules(tests.engine.tiny.__path__) if m.name != "parts")


@dataclass(frozen=True)
class Family:
    """A family's stock side and the engine that was loaded from the same files."""

    tiny: Tiny
    engine: PrefixEngine


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return load_family(request.param, tmp_path_factory.mktemp(request.param))


def load_family(name: str, directory: pathlib.Path) -> Family:
    torch.manual_seed(0)
    tiny = importlib.import_module(f"tests.engine.tiny.{name}").build(directory)
    engine = load_engine(str(directory), device="cpu", dtype="float32")
    assert isinstance(engine, PrefixEngine)
    return Family(tiny, engine)
