"""`secondglance doctor`: what is right and what is not between this edge and its server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secondglance.commands.console import complain, exit_code_of_errors, progress
from secondglance.commands.options import Json, Url

if TYPE_CHECKING:
    from secondglance.doctor.examination import Finding

_MARKS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def doctor(
    url: Url = None,
    json_: Json = False,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE", exists=True, dir_okay=False, help="Say what would be sent of this picture."
        ),
    ] = None,
    probe_bytes: Annotated[
        int,
        typer.Option(
            min=0, metavar="BYTES", help="How many bytes to measure the uplink with; 0 measures nothing."
        ),
    ] = 256 * 1024,
) -> None:
    """Examine this edge, the link and the server.

    Looks at versions and codecs, reaches for the server, compares clocks, asks what the model takes, measures
    the uplink and works out what would be sent of a sample picture (nothing of it leaves). The only upload is
    --probe-bytes of random data, which the server reads and refuses; nothing is inferred.

    The report holds no key and no password; paste --json into bug reports.

    \b
    Examples:
      secondglance doctor
      secondglance doctor --json > report.json
      secondglance doctor --image photo.jpg --probe-bytes 0

    \b
    Environment: SECONDGLANCE_URL, SECONDGLANCE_API_KEY, SECONDGLANCE_EDGE_*

    \b
    Exit codes:
      0 nothing failed (there may be warnings)   1 something here failed   2 usage   65 bad image
      69 server unavailable   75 server not ready   77 not allowed   124 timed out
    """
    with exit_code_of_errors():
        from secondglance.client import EdgeClient
        from secondglance.doctor.examination import Examination
        from secondglance.settings import load_settings

        settings = load_settings(url=url)
        EdgeClient(settings=settings).close()  # complains about a URL that is none
        findings: list[Finding] = []
        with progress() as show:
            for finding in Examination(settings, sample=image, probe_bytes=probe_bytes).examine():
                show(f"{finding.name}: {finding.status}")
                findings.append(finding)
    failed = [finding for finding in findings if finding.status == "failed"]
    if json_:
        report = {"ok": not failed, "findings": [finding.to_dict() for finding in findings]}
        print(json.dumps(report))
    else:
        _print(findings)
    for finding in failed:
        complain(f"{finding.name}: {finding.detail}")
    if failed:
        raise typer.Exit(failed[0].exit_code)


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    from secondglance.text import printable

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for finding in findings:
        line = Text(f"{finding.status:8}", style=_MARKS[finding.status])
        console.print(line.append(f" {finding.name:11}{printable(finding.detail)}", style="default"))
