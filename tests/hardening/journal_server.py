"""`python -m tests.hardening.journal_server JOURNAL DELAY_S PATIENCE_S`: its engine notes what it does.

A line for each beginning and each end of an inference: the time, process, a number, stage and question.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Sequence

from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EngineError
from secondglance_server.inference.stores.redis import connection
from secondglance_server.serving import leave, run_until_stopped
from secondglance_server.settings import load_settings


class JournalEngine(FakeEngine):
    """Appends to `journal`, one write for each batch, so that lines of several processes do not mix."""

    def __init__(self, journal: str, script: FakeScript) -> None:
        super().__init__(script)
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND)
        self._numbers = itertools.count()

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        runs = [
            f"{os.getpid()}\t{next(self._numbers)}\t{1 if each.patch is None else 2}\t{each.question}"
            for each in requests
        ]
        self._note("began", runs)
        results = super().answer(requests)
        self._note("ended", runs)
        return results

    def _note(self, what: str, runs: Sequence[str]) -> None:
        now = time.monotonic()  # one clock for all processes of a machine
        os.write(self._journal, "".join(f"{what}\t{now}\t{run}\n" for run in runs).encode())


def main() -> None:
    if patience_s := float(sys.argv[3]):  # with Redis, on a machine that is busy with other tests
        connection.TIMEOUT_S = connection._PATIENCE_S = patience_s  # type: ignore[misc]
    engine = JournalEngine(sys.argv[1], FakeScript(draft="a sign", answer="42", delay_s=float(sys.argv[2])))
    leave(is_well=run_until_stopped(load_settings(), engine))


if __name__ == "__main__":
    main()
