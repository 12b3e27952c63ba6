"""docs/operations.md is in step with the code: its tables, its alerts, and the findings that it explains."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml
from pydantic_settings import BaseSettings

from docs.tables import TABLES, page_with_tables, published_table, settings_table
from secondglance.gateway.settings import GatewaySettings
from secondglance.settings import EdgeSettings
from secondglance_server.settings import ENV_PREFIX, ServerSettings, VllmSettings

# PaliGemma's processor, in transformers itself
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
PAGE = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("name", ["operations.md", "quickstart.md", "models.md", "vllm.md", "log.md"])
def test_the_tables_are_those_of_the_code(name: str) -> None:
    """If this fails: python docs/tables.py"""
    page = (ROOT / "docs" / name).read_text()
    assert page_with_tables(page) == page


def test_every_table_is_in_a_page() -> None:
    marks = (re.findall(r"<!-- (.*): written by docs/tables.py", page.read_text()) for page in PAGES)
    assert sorted(mark for found in marks for mark in found) == sorted(TABLES)


def test_a_stale_table_is_found() -> None:
    """The test above can fail."""
    stale = PAGE.replace(f"| `{ENV_PREFIX}MAX_QUEUE` | 64 |", f"| `{ENV_PREFIX}MAX_QUEUE` | 65 |")
    assert stale != PAGE
    assert page_with_tables(stale) != stale


def test_each_published_models_first_picture_is_known_and_fills_a_view() -> None:
    """LLaVA-1.6 and Qwen2-VL were told at load, and LLaVA-1.6's picture had 16 x 16 pixels."""
    rows = [row.strip("| ").split(" | ") for row in published_table().splitlines()[2:]]
    assert len(rows) == 10
    for row in rows:
        square, photo, first = int(row[4]), int(row[5]), row[6]
        assert min(square, photo) >= 64
        sides = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", first)]
        assert math.prod(sides) >= 224**2


@pytest.mark.parametrize("settings", [ServerSettings, VllmSettings, EdgeSettings, GatewaySettings])
def test_every_setting_has_a_meaning(settings: type[BaseSettings]) -> None:
    """The comment behind it in the settings class."""
    rows = [row.strip("| ").split(" | ") for row in settings_table(settings).splitlines()[2:]]
    nested = ["vllm"] if settings is ServerSettings else []  # a table of its own
    assert len(rows) + len(nested) == len(settings.model_fields)
    assert [cells[0] for cells in rows if len(cells[-1]) < 5 or cells[-1] == cells[1]] == []


def test_every_alert_is_explained() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert set(re.findall(r"`(SecondGlance\w+)`", PAGE)) == alerts


def test_every_ignored_advisory_is_explained() -> None:
    (ignored,) = re.findall(r"^EXPLAINED :=(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [advisory for advisory in ignored.split() if advisory not in PAGE] == []


def test_every_file_and_test_named_as_a_defence_exists() -> None:
    table = PAGE.split("## Threat model")[1].split("Not defended")[0]
    named = re.findall(r"`((?:server|edge_client|deploy|tests)/[\w./]+)`", table)
    assert len(named) > 40
    assert [path for path in named if not (ROOT / path).exists()] == []
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert [row for row in rows if "`tests/" not in row and not row.startswith(("| ---", "| wants"))] == []
    sources = "".join((ROOT / path).read_text() for path in set(named) if path.startswith("tests/"))
    assert [name for name in re.findall(r"`(test_\w+)`", table) if f"def {name}(" not in sources] == []


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("llava-hf/llava-1.5-7b-hf", 7_063_427_072),
        ("Qwen/Qwen2-VL-7B-Instruct", 8_291_375_616),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656),
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696),
        ("HuggingFaceTB/SmolVLM-256M-Instruct", 256_484_928),
        ("google/gemma-3-4b-it", 4_300_079_472),
        ("google/paligemma-3b-pt-224", 2_923_466_480),
    ],
)
def test_the_shapes_of_published_models_have_the_published_number_of_parameters(
    model: str, parameters: int
) -> None:
    """Shapes that somebody misremembered would give another memory than the model takes."""
    (row,) = [line for line in published_table().splitlines() if f"`{model}`" in line]
    assert [cell.strip() for cell in row.split("|")][2:4] == [
        f"{parameters / 1e9:.2f} B",
        f"{parameters * 2 / 1e9:.1f} GB",
    ]
