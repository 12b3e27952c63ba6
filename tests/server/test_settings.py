"""Settings come from the environment, frozen; a wrong one stops the start and says which."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from server.settings import ServerSettings, SettingsError, load_settings


def test_the_environment_and_then_arguments_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_SERVER_MAX_QUEUE", "7")
    monkeypatch.setenv("SECONDGLANCE_SERVER_PORT", "9000")
    settings = load_settings(port=9001, host=None)
    assert (settings.max_queue, settings.port, settings.host) == (7, 9001, "127.0.0.1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_QUEUE", "many"),
        ("MAX_QUEUE", "0"),
        ("PORT", "70000"),
        ("BODY_TIMEOUT_S", "-1"),
        ("MAX_ASPECT_RATIO", "inf"),
        ("MODEL", ""),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"SECONDGLANCE_SERVER_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"SECONDGLANCE_SERVER_{name}={value!r}" in str(caught.value)


def test_an_empty_key_is_a_mistake_and_not_an_open_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_SERVER_API_KEY", "")
    with pytest.raises(SettingsError, match=r"SECONDGLANCE_SERVER_API_KEY=\*\*\*"):
        load_settings()


def test_the_key_is_never_shown() -> None:
    assert "secret" not in repr(ServerSettings(api_key="secret"))  # type: ignore[arg-type]


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ServerSettings().port = 1  # type: ignore[misc]
