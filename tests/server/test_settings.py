"""Settings come from the environment, frozen; a wrong one stops the start and says which."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from secondglance_server.app import _load
from secondglance_server.errors import SettingsError
from secondglance_server.settings import ServerSettings, VllmSettings, load_settings

HASH = "0" * 64


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
        ("BODY_TIMEOUT_S", "nan"),
        ("INFERENCE_DEADLINE_S", "inf"),
        ("MODEL", ""),
        ("LOG_LEVEL", "loud"),
        ("SERVER_TAG", "A"),
        ("SERVER_TAG", "a_b"),
        ("SERVER_TAG", "a\n"),
        ("SERVER_TAG", "123456789"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"SECONDGLANCE_SERVER_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"SECONDGLANCE_SERVER_{name}={value!r}" in str(caught.value)


def test_keys_come_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = f'{{"tenant": "cameras", "sha256": "{HASH}", "requests_per_min": 60}}'
    monkeypatch.setenv("SECONDGLANCE_SERVER_KEYS", f"[{entry}]")
    (key,) = load_settings().keys
    assert (key.tenant, key.scope, key.requests_per_min, key.bytes_per_min) == ("cameras", "ask", 60, None)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sg_a-key-as-it-is",
        '["sg_a-key-as-it-is"]',
        '[{"tenant": "a", "sha256": "sg_a-key-as-it-is"}]',
        f'[{{"tenant": "a b", "sha256": "{HASH}"}}]',
        f'[{{"tenant": "a", "sha256": "{HASH}", "surprise": 1}}]',
        f'[{{"tenant": "a", "sha256": "{HASH}"}}, {{"tenant": "b", "sha256": "{HASH}"}}]',
    ],
)
def test_wrong_keys_are_a_mistake_and_not_an_open_server(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """What stands there may be a key, so it is not shown."""
    monkeypatch.setenv("SECONDGLANCE_SERVER_KEYS", value)
    with pytest.raises(SettingsError, match="SECONDGLANCE_SERVER_KEYS") as caught:
        load_settings()
    assert "a-key-as-it-is" not in str(caught.value)


@pytest.mark.parametrize("name", ["API_KEY", "API_KEYS", "KEY"])
def test_a_setting_that_sounds_like_a_key_is_not_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Other unknown variables are; this one would leave the server open."""
    monkeypatch.setenv(f"SECONDGLANCE_SERVER_{name}", "secret")
    with pytest.raises(SettingsError, match="key new"):
        load_settings()


@pytest.mark.parametrize(
    "name", sorted({*ServerSettings.model_fields, *VllmSettings.model_fields} - {"vllm"})
)
@pytest.mark.parametrize("typo", ["X{}", "{}S", "{}_"])
def test_a_misspelt_variable_is_named_with_the_nearest_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, typo: str
) -> None:
    """Walked. It was ignored, so whoever set it believed that it worked."""
    misspelt = f"SECONDGLANCE_SERVER_{typo.format(name.upper())}"
    monkeypatch.setenv(misspelt, "s3cret")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert (
        str(caught.value)
        == f"{misspelt} is no setting; the nearest one is SECONDGLANCE_SERVER_{name.upper()}"
    )


@pytest.mark.parametrize(
    "name",
    [
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT_8000_TCP",
        "PORT_8000_TCP_PORT",
        "VERSION",
        "",
    ],
)
def test_what_orchestrators_inject_is_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"SECONDGLANCE_SERVER_{name}", "tcp://10.0.0.7:8000")
    assert load_settings() == ServerSettings()


@pytest.mark.parametrize(
    ("engine", "name", "value"),
    [
        *(
            ("prefix", name, "1")
            for name in VllmSettings.model_fields
            if name.endswith(("size", "utilization"))
        ),
        ("prefix", "quantization", "fp8"),
        ("prefix", "served_model_name", "m"),
        ("prefix", "download_dir", "d"),
        ("prefix", "max_model_len", "1024"),
        ("prefix", "distributed_executor_backend", "ray"),
        ("vllm", "device", "cuda:1"),
        ("vllm", "device_map", "auto"),
        ("vllm", "attn", "flash"),
        ("vllm", "decode", "eager"),
        ("vllm", "prefix_cache_bytes", "1"),
    ],
)
@pytest.mark.parametrize("source", ["environment", "option"])
def test_a_setting_of_the_other_engine_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, engine: str, name: str, value: str, source: str
) -> None:
    """Taken and ignored, --tensor-parallel-size would leave seven of eight devices idle without a word."""
    value = {"tensor_parallel_size": "2", "pipeline_parallel_size": "2"}.get(name, value)
    given = {"engine": engine}
    if source == "environment":
        monkeypatch.setenv(f"SECONDGLANCE_SERVER_{name.upper()}", value)
    else:
        given[name] = value
    with pytest.raises(
        SettingsError, match=f"SECONDGLANCE_SERVER_{name.upper()}: only with engine"
    ) as caught:
        load_settings(**given)
    assert "\n" not in str(caught.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ServerSettings().port = 1  # type: ignore[misc]


def test_every_setting_of_the_engine_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[object, dict[str, object]]] = []
    monkeypatch.setattr(
        "secondglance_server.engine.loader.load_engine",
        lambda model, **options: given.append((model, options)),
    )
    settings = ServerSettings(
        model="m", device="d", dtype="t", attn="a", decode="eager", prefix_cache_bytes=123
    )
    _load(settings)
    ((model, options),) = given
    assert model == "m"
    wanted = {"device": "d", "dtype": "t", "attn": "a", "decode": "eager", "cache_bytes": 123}
    assert {name: options.get(name) for name in wanted} == wanted


def test_each_setting_says_what_it_is_and_who_changes_it() -> None:
    """What no operator would change is a constant; 43 variables were more than anybody reads."""
    assert len(ServerSettings.model_fields) <= 40
    assert len(VllmSettings.model_fields) <= 8
    for name, field in (ServerSettings.model_fields | VllmSettings.model_fields).items():
        what, _, when = (field.description or "").partition(". ")
        assert what, name
        assert when.strip().endswith("."), name
        assert when.split()[0] in {
            "Set",
            "Raise",
            "Lower",
            "Change",
            "Keep",
            "Everyone",
            "Whoever",
            "Containers",
        }, name
