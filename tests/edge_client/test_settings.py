"""Settings come from the environment, once, and complain by name."""

from __future__ import annotations

import pytest

from secondglance.errors import UsageError
from secondglance.settings import ENV_PREFIX, EdgeSettings, load_settings, variable_of


def test_the_documented_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_URL", "http://elsewhere:9")
    monkeypatch.setenv("SECONDGLANCE_API_KEY", "s3cret")
    monkeypatch.setenv("SECONDGLANCE_EDGE_IMAGE_QUALITY", "70")
    settings = load_settings()
    assert settings.url == "http://elsewhere:9"
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "s3cret"
    assert settings.image_recipe.quality == 70
    assert "s3cret" not in repr(settings)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_URL", "http://elsewhere:9")
    assert load_settings(url="http://here:1").url == "http://here:1"
    assert load_settings(url=None).url == "http://elsewhere:9"


def test_the_defaults_are_the_contracts() -> None:
    settings = load_settings()
    assert (settings.connect_timeout_s, settings.read_timeout_s) == (5.0, 60.0)
    policy = settings.retry_policy
    assert (policy.retries, policy.first_wait_s, policy.max_wait_s, policy.max_retry_after_s) == (
        2,
        0.5,
        8,
        120,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECONDGLANCE_EDGE_IMAGE_QUALITY", "101"),
        ("SECONDGLANCE_EDGE_RETRIES", "-1"),
        ("SECONDGLANCE_EDGE_FORMAT", "tiff"),
        ("SECONDGLANCE_EDGE_READ_TIMEOUT_S", "never"),
    ],
)
def test_a_wrong_value_names_key_and_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as raised:
        load_settings()
    assert name in str(raised.value)
    assert value in str(raised.value)


@pytest.mark.parametrize("name", EdgeSettings.model_fields)
def test_a_wrong_argument_is_named_by_its_variable(name: str) -> None:
    """Walked: a wrong address was one of SECONDGLANCE_EDGE_URL, which is no setting."""
    with pytest.raises(UsageError, match=rf"^{variable_of(EdgeSettings, name)}="):
        load_settings(**{name: object()})


def test_a_wrong_key_is_not_shown() -> None:
    with pytest.raises(UsageError) as raised:
        load_settings(api_key=["s3cret"])
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("SECONDGLANCE_EDGE_RETRIS", "SECONDGLANCE_EDGE_RETRIES"),
        ("SECONDGLANCE_EDGE_IMAGE_QUALTY", "SECONDGLANCE_EDGE_IMAGE_QUALITY"),
        ("SECONDGLANCE_EDGE_TIMEOUT", "SECONDGLANCE_EDGE_"),
        ("SECONDGLANCE_EDGE_URL", "SECONDGLANCE_URL"),  # it named a setting that has nothing to do with it
        ("SECONDGLANCE_EDGE_SERVER_URL", "SECONDGLANCE_URL"),
        ("SECONDGLANCE_EDGE_API_KEY", "SECONDGLANCE_API_KEY"),
    ],
)
def test_u8_a_misspelt_variable_is_named_with_the_nearest_setting(
    monkeypatch: pytest.MonkeyPatch, misspelt: str, meant: str
) -> None:
    """It was ignored, so whoever set it believed that it worked."""
    monkeypatch.setenv(misspelt, "1")
    with pytest.raises(UsageError, match=f"{misspelt} is no setting; the nearest one is {meant}"):
        load_settings()


@pytest.mark.parametrize("name", EdgeSettings.model_fields)
def test_every_setting_is_named_by_its_variable_where_that_is_nearly_right(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Walked: the address and the key have another prefix, so they were never the nearest."""
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}X", "1")
    with pytest.raises(UsageError, match=rf"the nearest one is {variable_of(EdgeSettings, name)}$"):
        load_settings()


def test_the_gateways_variables_are_not_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_EDGE_GATEWAY_PORT", "8002")
    assert load_settings().retries == 2
