"""`python requirements/audit.py PIP_AUDIT CONSTRAINTS [ID...]`: known vulnerabilities of the pinned versions.

Ends with 0 if there are none but the explained IDs, with 1 if there are others, and with 3 if no advisory
database could be asked: then nothing is known, and that must not look like either.
"""

from __future__ import annotations

import json
import subprocess
import sys

CLEAN, FOUND, NOT_ASKED = 0, 1, 3


def main(pip_audit: str, constraints: str, *explained: str) -> int:
    options = ["--no-deps", "--disable-pip", "--strict", "--progress-spinner", "off", "--format", "json"]
    ignored = [option for name in explained for option in ("--ignore-vuln", name)]
    asked = subprocess.run(
        [pip_audit, "--requirement", constraints, *options, *ignored], capture_output=True, text=True
    )
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except ValueError:
        why = (asked.stderr.strip() or "no reason given").splitlines()[-1]
        print(f"NOT AUDITED: no advisory database could be asked ({why[:300]}).", file=sys.stderr)
        print(
            "Nothing is known about the pinned versions. Run it where pypi.org is reachable.", file=sys.stderr
        )
        return NOT_ASKED
    found = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", [])]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"{len(packages)} packages, {len(found)} findings that are not explained")
    return FOUND if found else CLEAN


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
