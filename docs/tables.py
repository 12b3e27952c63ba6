"""Writes the tables of docs/operations.md anew: every setting, every metric.   python docs/tables.py

A setting's meaning is the docstring below it in `secondglance_server/settings.py`, a metric's its help text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from secondglance_eval.markdown import markdown_table
from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import Confidence
from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.inference.facts import RequestFacts
from secondglance_server.settings import ENV_PREFIX, ServerSettings

PAGE = Path(__file__).with_name("operations.md")
_MIB = 1024 * 1024


def settings_table() -> str:
    rows = [
        (
            f"`{ENV_PREFIX}{name.upper()}`",
            _shown(field.default),
            _with_choices(" ".join((field.description or "").split()), field.annotation),
        )
        for name, field in ServerSettings.model_fields.items()
    ]
    return markdown_table(("variable", "default", "what it is, and who changes it when"), rows) + "\n"


def metrics_table() -> str:
    """Of an app that has seen one request of everything, so that each label shows."""
    engine = FakeEngine()
    parts = create_app(ServerSettings(), engine).state.server
    parts.metrics.show_model(engine.info)
    sure = Confidence(
        metric="margin", aggregate="max", value=0, threshold=0, min_entropy=0, shannon=0, margin=0
    )
    facts = RequestFacts("", stage=1, outcome="answered", error=ErrorCode.BUSY, confidence=sure)
    parts.metrics.observe(facts, route="", method="", status=200, elapsed_s=0)
    rows = []
    for family in sorted(parts.metrics.registry.collect(), key=lambda family: family.name):
        if family.name.startswith("process_"):
            continue
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append((f"`{name}`", family.type, ", ".join(labels), family.documentation))
    return markdown_table(("metric", "type", "labels", "meaning"), rows) + "\n"


def page_with_tables(text: str) -> str:
    """`text` with each table between its marks written anew."""
    for name, table in {"settings": settings_table(), "metrics": metrics_table()}.items():
        begin, end = f"<!-- {name}: written by docs/tables.py -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + "\n" + table + "\n" + end + rest.split(end)[1]
    return text


def _shown(default: object) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, int) and default >= _MIB and default % _MIB == 0:
        return f"{default} ({default // _MIB} MiB)"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _with_choices(meaning: str, annotation: Any) -> str:
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f"{meaning} One of {', '.join(choices)}." if choices else meaning


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text()))
