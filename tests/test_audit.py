"""An audit that could not be made does not look like a clean one, nor like a finding."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / "requirements" / "audit.py"

CLEAN = {"name": "a", "version": "1", "vulns": []}
HOLE = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}


def report(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("printed", "complaint", "code", "says"),
    [
        (report(CLEAN), "", 0, "1 packages, 0 findings"),
        (report(CLEAN, HOLE), "Found 1 known vulnerability", 1, "b 2: PYSEC-1, fixed in 3"),
        ("", "ERROR: Dependency not found on PyPI and could not be audited: a", 3, "NOT AUDITED"),
        ("", "", 3, "Nothing is known"),
    ],
)
def test_the_three_ends_of_an_audit_differ(
    tmp_path: Path, printed: str, complaint: str, code: int, says: str
) -> None:
    pip_audit = tmp_path / "pip-audit"
    lines = [
        f"#!{sys.executable}",
        "import sys",
        f"print({printed!r}, end='')",
        f"print({complaint!r}, file=sys.stderr)",
        f"sys.exit({min(code, 1)})",  # as pip-audit's own: 1 for both
    ]
    pip_audit.write_text("\n".join(lines))
    pip_audit.chmod(0o755)
    done = subprocess.run(
        [sys.executable, str(AUDIT), str(pip_audit), "constraints.txt", "PYSEC-0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done
    assert ("NOT AUDITED" in done.stderr) == (code == 3)
