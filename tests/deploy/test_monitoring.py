"""The dashboard and the alert rules ask only for what a running app exports: names, labels, label values."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import Metric, TimingMs
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.inference.facts import Outcome
from secondglance_server.inference.skip import SkipReason
from tests.needs import needs_program
from tests.server.exchange import ask, patch_for, put_patch, running_client

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus-rules.yml"
RULES_TEST = Path(__file__).with_name("prometheus-rules.test.yml")
DASHBOARD = DEPLOY / "grafana-dashboard.json"

FROM_THE_SCRAPE = {"up": {"job", "instance"}}
LABELS_OF_THE_SCRAPE = {"job", "instance"}
VALUES = {
    "stage": {"1", "2"},
    "outcome": {*get_args(Outcome), "failed"},
    "code": set(ErrorCode),
    "reason": set(get_args(SkipReason)),
    "phase": set(TimingMs.model_fields),
    "metric": set(get_args(Metric)),
    "kind": {"prompt", "cached", "completion"},
}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> dict[str, str]:
    """Every query of rules and dashboard, by where it is."""
    found = {f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in rules()}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            where = f"panel {panel['title']} {target['refId']}"
            found[where] = target["expr"].replace("$__rate_interval", "5m")
    return found


async def exported() -> dict[str, set[str]]:
    """Label names by sample name, of an app that has answered both stages and refused something."""
    async with running_client(FakeEngine()) as client:
        draft = (await ask(client)).json()
        await put_patch(client, draft["patch"]["url"], patch_for(draft))
        await client.get("/nope")
        text = (await client.get("/metrics")).text
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def complaints(query: str, known: dict[str, set[str]]) -> list[str]:
    """What `query` asks for and nothing exports. Raises if it is no PromQL."""
    found: list[str] = []
    below: set[str] = set()

    def select(node: object) -> None:
        if not isinstance(node, promql_parser.VectorSelector):
            return
        if node.name not in known:
            found.append(f"nothing exports {node.name}")
            return
        below.update(known[node.name])
        for matcher in node.matchers.matchers:
            if matcher.name not in known[node.name] | LABELS_OF_THE_SCRAPE:
                found.append(f"{node.name} has no label {matcher.name}")
            unknown = set(matcher.value.split("|")) - VALUES.get(matcher.name, set(matcher.value.split("|")))
            found.extend(f"{matcher.name} is never {value}" for value in sorted(unknown))

    def group(node: object) -> None:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            absent = set(node.modifier.labels) - below - LABELS_OF_THE_SCRAPE
            found.extend(f"grouped by {label}, which nothing below has" for label in sorted(absent))

    tree = promql_parser.parse(query)
    promql_parser.walk(tree, select)
    promql_parser.walk(tree, group)
    return found


async def test_every_query_asks_for_what_a_running_app_exports() -> None:
    known = await exported() | FROM_THE_SCRAPE
    known |= {rule["record"]: LABELS_OF_THE_SCRAPE for rule in rules() if "record" in rule}
    asked = queries()
    assert len(asked) > 40
    assert {where: wrong for where, query in asked.items() if (wrong := complaints(query, known))} == {}


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("rate(secondglance_nonsense_total[5m])", "nothing exports secondglance_nonsense_total"),
        ('secondglance_ready{phase="queue"}', "secondglance_ready has no label phase"),
        ('secondglance_skips_total{reason="bored"}', "reason is never bored"),
        ("sum by (stage) (secondglance_ready)", "grouped by stage, which nothing below has"),
    ],
)
async def test_a_wrong_query_is_found(query: str, complaint: str) -> None:
    """The test above can fail."""
    assert complaints(query, await exported()) == [complaint]


async def test_every_metric_is_on_the_dashboard() -> None:
    """Whatever the app counts, somebody can look at; two serve as labels and totals."""
    shown = set(re.findall(r"secondglance_\w+", DASHBOARD.read_text()))
    ours = {name for name in await exported() if name.startswith("secondglance_")}
    ours -= {name for name in ours if name.endswith("_created")}  # when a counter began: nobody's business
    hidden = {_family(name) for name in ours} - {_family(name) for name in shown}
    assert hidden == {"secondglance_model_info", "secondglance_requests_total"}


def _family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


@pytest.mark.parametrize(
    "rule", [rule for rule in rules() if "alert" in rule], ids=lambda rule: rule["alert"]
)
def test_an_alert_says_how_bad_it_is_and_what_is_wrong(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["for"]


@needs_program("promtool", package="prometheus")
@pytest.mark.parametrize("command", [("check", RULES), ("test", RULES_TEST)], ids=["check", "test"])
def test_prometheus_takes_the_rules_and_they_fire(command: tuple[str, Path]) -> None:
    verb, path = command
    result = subprocess.run(
        ["promtool", verb, "rules", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
