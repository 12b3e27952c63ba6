"""The server's unit: systemd understands it, its command exists, and it starts again where that may help."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main

from secondglance_server.cli import cli
from secondglance_server.serving import KEEP_ALIVE_S
from secondglance_server.settings import ENV_PREFIX, ServerSettings
from tests.needs import needs_program

UNIT = Path(__file__).parents[2] / "deploy" / "secondglance-server@.service"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read(UNIT)
    return unit["Service"]


def test_the_unit_starts_a_command_that_exists(service: configparser.SectionProxy) -> None:
    program, command, *options = shlex.split(service["ExecStart"])
    assert Path(program).name == "secondglance-server"
    serve = typer.main.get_command(cli).commands[command]  # type: ignore[attr-defined]  # it is a group
    known = {name for parameter in serve.params for name in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known


def test_what_does_not_mend_itself_is_not_started_again(service: configparser.SectionProxy) -> None:
    """2: a wrong setting or a model that cannot be served; 3: a taken address. 1 may pass."""
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"].split() == ["2", "3"]


def test_the_unit_waits_longer_than_the_servers_grace(service: configparser.SectionProxy) -> None:
    assert int(service["TimeoutStopSec"]) >= ServerSettings().shutdown_grace_s + 10
    assert int(service["TimeoutStopSec"]) > KEEP_ALIVE_S


def test_downloads_go_where_the_unit_may_write(service: configparser.SectionProxy) -> None:
    """The rest of the file system is read-only for it."""
    text = UNIT.read_text()
    assert service["ProtectSystem"] == "strict"
    assert f"Environment=HF_HOME=/var/cache/{service['CacheDirectory']}\n" in text


def test_every_setting_that_the_unit_names_exists() -> None:
    named = set(re.findall(rf"{ENV_PREFIX}(\w+)", UNIT.read_text()))
    assert named
    assert {name.lower() for name in named} <= set(ServerSettings.model_fields)


@needs_program("systemd-analyze", package="systemd")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """Of an instance, with a program that is here: the unit's own need not be installed."""
    instance = tmp_path / "secondglance-server@test.service"
    instance.write_text(UNIT.read_text().replace("/opt/secondglance/bin/secondglance-server", "/bin/true"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", str(instance)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, [line for line in ran.stderr.splitlines() if str(instance) in line]) == (0, [])
