"""The figures of a run as a Markdown page for the repository."""

from __future__ import annotations

from collections.abc import Sequence

from secondglance_eval.markdown import markdown_table
from secondglance_eval.report import tables
from secondglance_eval.report.findings import Findings
from secondglance_eval.report.tables import TextTable

_START = """# Accuracy against bytes

Written by `secondglance-eval report`, not by hand. Points are percentage points of right answers.
"""


def results_markdown(findings: Findings, pictures: Sequence[str]) -> str:
    """Return the page; `pictures` are paths relative to it."""
    gate = findings.all.gate.name
    parts = [
        _START,
        tables.facts_sentence(findings),
        *([tables.left_out_sentence(findings)] if findings.facts.left_out else []),
        tables.HOW_TO_READ,
        titled_table(tables.headline_table(tables.headline_sets(findings))),
        *(f"![{name}]({name})" for name in pictures),
        "## Methods",
        *(titled_table(tables.methods_table(one)) for one in tables.headline_sets(findings)),
        titled_table(tables.kinds_table(findings)),
        "## Gates",
        tables.gates_sentence(findings.gates, findings.all.gate),
        titled_table(tables.gates_table("All questions", findings.gates, gate)),
    ]
    if findings.gates_reading:
        parts.append(titled_table(tables.gates_table("Reading alone", findings.gates_reading, gate)))
    encodings = tables.encodings_table(findings)
    if encodings:
        parts += ["## One picture at equal bytes", titled_table(encodings)]
    parts += [
        "## Latency and check",
        titled_table(tables.latency_table(findings)),
        tables.check_sentence(findings),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def titled_table(content: TextTable) -> str:
    """Return the table below its title, our row in bold."""
    table = markdown_table(content.head, content.rows, are_numbers=True, marked=content.marked)
    return f"{content.title}:\n\n{table}"
