"""What every test may use, and how a skip is treated.

A test that needs a program skips where it is absent and says which package brings it. `--no-skips`, as CI
runs, makes each skip a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

FULL_LENGTH = (pytest.mark.slow, pytest.mark.timeout(3600))


@pytest.fixture(scope="session", params=["short", pytest.param("full", marks=FULL_LENGTH)])
def is_full(request: pytest.FixtureRequest) -> bool:
    """Whether a long check runs at full length: `make test` runs short ones only."""
    return bool(request.param == "full")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of bytes by its argument: compressed ones hold the time, and all processes must agree."""
    return argname if isinstance(val, bytes | bytearray) else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail where a test would be skipped")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, with --no-skips: {report.longrepr[-1]}"
    return report
