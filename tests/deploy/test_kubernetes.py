"""The manifests are what Kubernetes takes, fit together, and give no pod more than it needs."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.settings import ENV_PREFIX, ServerSettings
from tests.deploy.test_monitoring import complaints, exported
from tests.needs import needs_module, needs_program

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
ADAPTER = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())
SCRAPE = FOLDER / "prometheus-scrape.yaml"
OF_OTHERS = {"prometheus-adapter.yaml", "prometheus-scrape.yaml"}  # files of Prometheus, not of the cluster

OBJECTS: list[dict[str, Any]] = [
    document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((FOLDER / name).read_text())
]
DEPLOYMENTS = {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == "Deployment"}
PODS = {name: each["spec"]["template"] for name, each in DEPLOYMENTS.items()}
SERVER = PODS["second-glance"]["spec"]["containers"][0]

needs_schemas = needs_module("kubernetes_validate", package="kubernetes-validate")
VERSIONS = ("1.28", "1.32", "1.37")


def name_of(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def of_kind(kind: str) -> list[dict[str, Any]]:
    found = [each for each in OBJECTS if each["kind"] == kind]
    assert found, kind
    return found


def is_valid(document: dict[str, Any], version: str) -> bool:
    """Whether the cluster's own schema takes it; fields that it does not know are refused."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError:
        return False
    return True


@needs_schemas
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", OBJECTS, ids=name_of)
def test_kubernetes_takes_each_object(document: dict[str, Any], version: str) -> None:
    assert is_valid(document, version)


@needs_schemas
@pytest.mark.parametrize("document", OBJECTS, ids=name_of)
def test_a_misspelt_field_is_refused(document: dict[str, Any]) -> None:
    """The test above can fail, for every kind."""
    wrong = copy.deepcopy(document)
    wrong["metadata"]["lables"] = {}
    assert not is_valid(wrong, VERSIONS[-1])


def offences(pod: dict[str, Any]) -> list[str]:
    """What the policy has against a pod, one word each."""
    (container,) = pod["containers"]
    whole, own = pod["securityContext"], container["securityContext"]
    found = {
        "root": not (whole.get("runAsNonRoot") and whole.get("runAsUser") and whole.get("runAsGroup")),
        "writable": own.get("readOnlyRootFilesystem") is not True,
        "privileged": own.get("allowPrivilegeEscalation") is not False
        or own.get("capabilities") != {"drop": ["ALL"]}
        or own.get("privileged", False)
        or whole.get("seccompProfile") != {"type": "RuntimeDefault"},
        "token": pod.get("automountServiceAccountToken") is not False,
        "unlimited": "memory" not in container["resources"]["limits"],
        "host": any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
        or any("hostPath" in volume for volume in pod.get("volumes", [])),
    }
    return [name for name, is_so in found.items() if is_so]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_no_more_than_it_must(name: str) -> None:
    assert offences(PODS[name]["spec"]) == []


@pytest.mark.parametrize(
    ("where", "change", "offence"),
    [
        (("securityContext",), {"runAsUser": 0}, "root"),
        (("securityContext",), {"seccompProfile": {"type": "Unconfined"}}, "privileged"),
        (("containers", 0, "securityContext"), {"readOnlyRootFilesystem": False}, "writable"),
        (("containers", 0, "securityContext"), {"capabilities": {"add": ["SYS_ADMIN"]}}, "privileged"),
        (("containers", 0, "resources"), {"limits": {"cpu": "1"}}, "unlimited"),
        ((), {"automountServiceAccountToken": True}, "token"),
        ((), {"hostNetwork": True}, "host"),
    ],
    ids=str,
)
def test_a_pod_that_may_more_is_found(where: tuple[Any, ...], change: dict[str, Any], offence: str) -> None:
    pod = copy.deepcopy(PODS["second-glance"]["spec"])
    place = pod
    for step in where:
        place = place[step]
    place.update(change)
    assert offences(pod) == [offence]


def test_every_file_is_applied_and_every_object_is_in_the_namespace() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - OF_OTHERS - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])
    assert {each["metadata"].get("namespace") for each in OBJECTS if each["kind"] != "Namespace"} == {
        KUSTOMIZATION["namespace"]
    }
    assert len({name_of(each) for each in OBJECTS}) == len(OBJECTS)
    (image,) = KUSTOMIZATION["images"]
    assert image["name"] == SERVER["image"]
    version = create_app(ServerSettings(), FakeEngine()).version
    assert image["newTag"] == version, "the version that this checkout builds"


def selectors() -> Iterator[tuple[str, dict[str, str]]]:
    """Every selector of pods, by the object that it is in."""
    for each in OBJECTS:
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            yield name_of(each), spec["selector"]
        if each["kind"] in ("Deployment", "PodDisruptionBudget"):
            yield name_of(each), spec["selector"]["matchLabels"]
        if each["kind"] == "NetworkPolicy" and spec["podSelector"]:
            yield name_of(each), spec["podSelector"]["matchLabels"]
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            for peer in [*rule.get("from", []), *rule.get("to", [])]:
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    yield name_of(each), peer["podSelector"]["matchLabels"]


def test_every_selector_finds_pods() -> None:
    """One that finds none is no error for Kubernetes: nothing is served, limited or protected."""
    labels = [pod["metadata"]["labels"] for pod in PODS.values()]
    found = list(selectors())
    assert len(found) >= 9
    lost = [name for name, wanted in found if not any(wanted.items() <= each.items() for each in labels)]
    assert lost == []


def test_every_port_that_is_named_is_opened() -> None:
    opened = {port["name"] for pod in PODS.values() for port in pod["spec"]["containers"][0].get("ports", [])}
    named = {port["targetPort"] for service in of_kind("Service") for port in service["spec"]["ports"]}
    for policy in of_kind("NetworkPolicy"):
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        named |= {port["port"] for rule in rules for port in rule["ports"] if isinstance(port["port"], str)}
    assert named == opened == {"http", "redis"}


def test_what_nobody_named_may_not_speak() -> None:
    (closed,) = [each for each in of_kind("NetworkPolicy") if not each["spec"]["podSelector"]]
    assert closed["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert closed["spec"].keys() == {"podSelector", "policyTypes"}


def test_the_probes_ask_for_what_the_server_has() -> None:
    routes = {getattr(route, "path", "") for route in create_app(ServerSettings(), FakeEngine()).routes}
    asked = {name: SERVER[name]["httpGet"]["path"] for name in ("readinessProbe", "livenessProbe")}
    assert asked == {"readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert set(asked.values()) <= routes


def test_a_leaving_pod_has_time_for_what_it_promised() -> None:
    wait_s = int(SERVER["lifecycle"]["preStop"]["exec"]["command"][1])
    grace_s = PODS["second-glance"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= wait_s + ServerSettings().shutdown_grace_s + 10
    strategy = DEPLOYMENTS["second-glance"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy["maxUnavailable"] == 0, "a new server is ready before an old one leaves"


def test_the_cluster_sets_none_of_our_settings() -> None:
    """A service `secondglance-server` puts SECONDGLANCE_SERVER_PORT=tcp://... into every pod: no start."""
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in PODS.values())
    for service in of_kind("Service"):
        variable = f"{service['metadata']['name'].upper().replace('-', '_')}_"
        assert not variable.startswith(ENV_PREFIX)


def test_every_variable_with_our_prefix_is_a_setting() -> None:
    """Unknown ones are ignored, so a misspelt one would be without effect."""
    names = [variable["name"] for variable in SERVER["env"] if variable["name"].startswith(ENV_PREFIX)]
    assert len(names) >= 3
    assert {name.removeprefix(ENV_PREFIX).lower() for name in names} <= ServerSettings.model_fields.keys()


@pytest.mark.parametrize(
    "command",
    [
        PODS["redis"]["spec"]["containers"][0]["args"],
        yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]["command"],
    ],
    ids=["kubernetes", "compose"],
)
def test_redis_has_room_for_what_the_servers_may_put_there(command: list[str]) -> None:
    """Above `maxmemory` questions are refused, and any policy but `noeviction` forgets claims."""
    options = dict(zip(command[1::2], command[2::2], strict=True))
    settings = ServerSettings()
    most_bytes = settings.max_stored_image_bytes + settings.max_session_bytes + 4000 * settings.max_sessions
    assert int(options["--maxmemory"].removesuffix("mb")) * 2**20 > 1.1 * most_bytes
    assert options["--maxmemory-policy"] == "noeviction"
    assert (options["--save"], options["--appendonly"]) == ("", "no"), "pictures stay off the disk"


def test_every_key_of_the_secret_is_in_the_documented_command() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text()
    wanted = {
        variable["valueFrom"]["secretKeyRef"]["key"]
        for pod in PODS.values()
        for variable in pod["spec"]["containers"][0]["env"]
        if "valueFrom" in variable and not variable["valueFrom"]["secretKeyRef"].get("optional")
    }
    assert wanted == {"keys", "redis-password", "sessions"}
    assert [key for key in wanted if f"--from-literal={key}=" not in text] == []


async def test_servers_are_added_by_a_metric_that_they_have() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    (rule,) = ADAPTER["rules"]["custom"]
    name = metric["pods"]["metric"]["name"]
    assert scaler["spec"]["scaleTargetRef"]["name"] in DEPLOYMENTS
    assert "replicas" not in DEPLOYMENTS["second-glance"]["spec"], "an apply would undo the scaler's number"
    known = {name: labels | {"namespace", "pod"} for name, labels in (await exported()).items()}
    query = rule["metricsQuery"]
    for placeholder, value in {
        "<<.Series>>": name,
        "<<.LabelMatchers>>": 'namespace="second-glance"',
        "<<.GroupBy>>": "pod",
    }.items():
        assert placeholder in query
        query = query.replace(placeholder, value)
    for asked in (rule["seriesQuery"], query):
        assert name in asked
        promql_parser.parse(asked)
        assert [wrong for wrong in complaints(asked, known) if " is never " not in wrong] == []


@needs_program("promtool", package="prometheus")
def test_prometheus_takes_the_scrape_configuration(tmp_path: Path) -> None:
    """Debian's Prometheus is built without Kubernetes: the targets are named by hand here."""
    configuration = yaml.safe_load(SCRAPE.read_text())
    (job,) = configuration["scrape_configs"]
    (discovery,) = job.pop("kubernetes_sd_configs")
    assert discovery == {"role": "pod", "namespaces": {"names": [KUSTOMIZATION["namespace"]]}}
    job["static_configs"] = [{"targets": ["127.0.0.1:8000"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    command = ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    kept = next(rule for rule in job["relabel_configs"] if rule.get("action") == "keep")
    labels = PODS["second-glance"]["metadata"]["labels"]
    assert kept["regex"] == f"{labels['app.kubernetes.io/component']};{SERVER['ports'][0]['name']}"
