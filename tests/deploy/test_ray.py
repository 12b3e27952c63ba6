"""The Ray Serve file, without Ray: the app that a replica builds, and what the configuration names.

`docs/log/fleet.md` tells what a run on a cluster showed; Ray itself is too large for every test run.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import yaml

from secondglance_server.engine.fake import FakeEngine
from secondglance_server.settings import ENV_PREFIX, ServerSettings
from tests.server.exchange import ask

FOLDER = Path(__file__).parents[2] / "deploy" / "ray"
(APPLICATION,) = yaml.safe_load((FOLDER / "serve.yaml").read_text())["applications"]


@pytest.fixture
def serve_app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve_app", FOLDER / "serve_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "configure_logging", lambda level: None)  # the test's own stays
    return module


async def test_a_replica_begins_when_its_model_is_loaded(
    serve_app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray sent requests as soon as the app had started, and got 503 until the model was there."""

    def load(settings: ServerSettings) -> FakeEngine:
        time.sleep(0.3)  # on the device's thread
        return FakeEngine()

    monkeypatch.setattr("secondglance_server.app._load", load)
    app = serve_app.build()
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app):
        assert app.state.server.readiness.is_ready
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            assert (await ask(client)).status_code == 200


async def test_a_replica_without_a_model_ends(serve_app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts another one for a process that ends; one that only says 503 would stay."""
    ended: list[int] = []

    def fail(settings: ServerSettings) -> FakeEngine:
        raise OSError("no such model")

    monkeypatch.setattr("secondglance_server.app._load", fail)
    monkeypatch.setattr(serve_app.os, "_exit", ended.append)
    app = serve_app.build()
    async with app.router.lifespan_context(app):
        assert ended == [1]


def test_the_server_refuses_before_ray_holds_back(serve_app: ModuleType) -> None:
    """What Ray holds back waits without an end, and its own refusal is text without Retry-After."""
    settings = ServerSettings(max_queue=3, max_batch=2, max_connections=5)
    assert serve_app.most_ongoing(settings) > 2 * (settings.max_queue + settings.max_batch)


def test_the_configuration_names_what_the_file_has(serve_app: ModuleType) -> None:
    module, _, name = APPLICATION["import_path"].partition(":")
    assert (FOLDER / f"{module}.py").exists()
    assert callable(getattr(serve_app, name))
    given = [
        variable for variable in APPLICATION["runtime_env"]["env_vars"] if variable.startswith(ENV_PREFIX)
    ]
    assert given
    assert {
        variable.removeprefix(ENV_PREFIX).lower() for variable in given
    } <= ServerSettings.model_fields.keys()
    (deployment,) = APPLICATION["deployments"]
    assert f'name="{deployment["name"]}"' in (FOLDER / "serve_app.py").read_text()
    with pytest.raises(ValueError, match="environment"):
        serve_app.application({"model": "embedded"})
