"""`secondglance-eval report`: plots as PNG, one HTML page, figures as Markdown, the headline as JSON."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from PIL import Image

from secondglance_eval.judging.cases import Case
from secondglance_eval.report import page, plots, tables
from secondglance_eval.report.comparison import Comparison
from secondglance_eval.report.findings import Findings, find
from secondglance_eval.report.markdown import results_markdown
from secondglance_eval.report.sheet import caption, case_picture, draw_sheet
from secondglance_eval.report.theme import DARK, LIGHT, THEMES, Theme, drawing

TITLE = "Accuracy against bytes on the wire"
SHEET_FILE = "cases.png"
IN_DOCS = ("accuracy-bytes", "accuracy-bytes-reading", "accuracy-by-height")

Draw = Callable[[Any, Comparison, Theme], None]


@dataclass(frozen=True, slots=True)
class Plot:
    name: str
    description: str
    draw: Callable[[Any, Theme], None]


def write_report(folder: Path, *, markdown: Path | None = None) -> dict[str, Any]:
    """Write the report into `folder`/report; return the headline for JSON. Raises RecordsError."""
    findings = find(folder)
    target = folder / "report"
    target.mkdir(exist_ok=True)
    drawn = _plots(findings)
    for one in drawn:
        for theme in THEMES:
            with drawing(theme) as (figure, axes):
                one.draw(axes, theme)
                figure.savefig(_png(target, one.name, theme))
    draw_sheet(findings.cases, findings.case_pictures, target / SHEET_FILE, LIGHT)
    (target / "report.html").write_text(page.page(TITLE, list(_parts(findings, drawn, target))))
    if markdown is not None:
        _write_markdown(findings, markdown, target, {one.name for one in drawn})
    return headline_json(findings)


def headline_json(findings: Findings) -> dict[str, Any]:
    """Return the figures of all questions, with those of reading alone beside them."""
    figures: dict[str, Any] = {"scenes": findings.all.scenes, **_rounded(findings.all)}
    if findings.reading is not None:
        figures["reading"] = _rounded(findings.reading)
    if findings.facts.left_out:
        figures["left_out"] = list(findings.facts.left_out)
    return figures


def _rounded(comparison: Comparison) -> dict[str, float | None]:
    """None for what was not measured, as JSON has no NaN."""
    figures = comparison.headline().items()
    return {name: None if isnan(figure.value) else round(figure.value, 4) for name, figure in figures}


def _plots(findings: Findings) -> list[Plot]:
    """`reading` has what is read only; without such questions its plots are left out."""

    def plot(name: str, description: str, draw: Draw, comparison: Comparison) -> Plot:
        def bound(axes: Any, theme: Theme) -> None:
            draw(axes, comparison, theme)

        return Plot(name, description, bound)

    everything, reading = findings.all, findings.reading
    described = "right answers against mean uplink bytes; bars are 95 % intervals."
    note = plots.whole_note(everything) or ""
    found = [
        plot(
            "accuracy-bytes",
            f"All questions: {described} {note}",
            plots.accuracy_against_bytes,
            everything,
        )
    ]
    if reading is not None:
        found.append(
            plot(
                "accuracy-bytes-reading",
                f"Reading alone: {described}",
                plots.accuracy_against_bytes,
                reading,
            )
        )
    found += [
        plot(
            "gate-roc",
            "How well each metric tells a wrong draft from a right one.",
            plots.gate_roc,
            everything,
        ),
        plot("doubt", "How doubtful right and wrong drafts are.", plots.doubt_histogram, everything),
    ]
    if reading is not None:
        description = "Reading, by the height of the text in the global view."
        found.append(plot("accuracy-by-height", description, plots.accuracy_by_height, reading))
    return found


def _parts(findings: Findings, drawn: list[Plot], target: Path) -> Iterator[page.Part]:
    gate = findings.all.gate.name
    encodings = tables.encodings_table(findings)
    yield page.Paragraph(tables.facts_sentence(findings), is_faint=True)
    if findings.facts.left_out:
        yield page.Paragraph(tables.left_out_sentence(findings), is_faint=True)
    yield page.Paragraph(tables.HOW_TO_READ)
    yield page.Table(tables.headline_table(tables.headline_sets(findings)))
    yield page.Plots([_plot_figure(one, target) for one in drawn])
    yield page.Heading("Methods")
    for comparison in tables.headline_sets(findings):
        yield page.Table(tables.methods_table(comparison))
    yield page.Table(tables.kinds_table(findings))
    yield page.Heading("Gates")
    yield page.Paragraph(tables.gates_sentence(findings.gates, findings.all.gate))
    yield page.Table(tables.gates_table("All questions", findings.gates, gate))
    if findings.gates_reading:
        yield page.Table(tables.gates_table("Reading alone", findings.gates_reading, gate))
    if encodings:
        yield page.Heading("One picture at equal bytes")
        yield page.Table(encodings)
    yield page.Heading("Latency and check")
    yield page.Table(tables.latency_table(findings))
    yield page.Paragraph(tables.check_sentence(findings))
    yield page.Heading("Cases")
    yield page.Paragraph(
        "Green: where the answer lies. Orange: what the server asked for, at full detail beside the picture.",
        is_faint=True,
    )
    yield page.Cases([_case_figure(findings, case) for case in findings.cases])


def _plot_figure(plot: Plot, target: Path) -> page.PlotFigure:
    light, dark = (_png(target, plot.name, theme).read_bytes() for theme in (LIGHT, DARK))
    return page.PlotFigure(light, dark, plot.description)


def _case_figure(findings: Findings, case: Case) -> page.CaseFigure:
    buffer = io.BytesIO()
    picture = case_picture(case, findings.case_pictures)
    picture.thumbnail((720, 720), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=80)
    question, *others = caption(case)
    return page.CaseFigure(buffer.getvalue(), question, others)


def _write_markdown(findings: Findings, path: Path, target: Path, drawn: set[str]) -> None:
    pictures = path.parent / path.stem
    pictures.mkdir(parents=True, exist_ok=True)
    names = [name for name in IN_DOCS if name in drawn]
    for name in names:
        shutil.copyfile(_png(target, name, LIGHT), pictures / f"{name}.png")
    path.write_text(results_markdown(findings, [f"{path.stem}/{name}.png" for name in names]))


def _png(folder: Path, name: str, theme: Theme) -> Path:
    return folder / f"{name}{theme.suffix}.png"
