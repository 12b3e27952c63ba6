"""Files written slowly, renamed and replaced while a watch looks: each complete one is asked about once.

The short version runs with the other tests; `make edge-endurance` runs the long one.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.edge_client.counting_engine import CountingEngine

pytestmark = pytest.mark.live

WRITERS = 8
SETTLE_S = 0.4


class Answers:
    """The names on a watch's stdout, as they come."""

    def __init__(self, process: subprocess.Popen[bytes], *, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self.names: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with self._changed:
                self.names[Path(json.loads(line)["name"]).name] += 1
                self._changed.notify_all()

    def wait_for(self, condition: Callable[[Counter[str]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.names), self._deadline_s), (
                "answers are missing"
            )

    def join(self) -> None:
        self._thread.join(10)


class Writer:
    """Writes one file in one of the ways that people and programs do; `expected` counts its answers."""

    def __init__(self, inbox: Path, answers: Answers, photo: Callable[[int], bytes]) -> None:
        self._inbox, self._answers, self._photo = inbox, answers, photo
        self.expected: Counter[str] = Counter()

    def write(self, number: int) -> None:
        dice = random.Random(number)
        name, data = f"{number:03}.jpg", self._photo(number)
        path = self._inbox / name
        ways = (self._slowly, self._with_a_pause, self._renamed_into_place, self._renamed, self._replaced)
        self.expected[name] += 1
        dice.choice(ways)(path, data, dice)

    def _slowly(self, path: Path, data: bytes, dice: random.Random) -> None:
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(data), 1 + len(data) // 8):
                file.write(data[start : start + 1 + len(data) // 8])
                time.sleep(dice.uniform(0, SETTLE_S / 8))

    def _with_a_pause(self, path: Path, data: bytes, dice: random.Random) -> None:
        """Longer than it takes to be taken for complete."""
        path.write_bytes(data[: dice.randrange(100, len(data) - 1)])
        time.sleep(SETTLE_S * 3)
        path.write_bytes(data)

    def _renamed_into_place(self, path: Path, data: bytes, dice: random.Random) -> None:
        part = path.with_suffix(".part")
        self._slowly(part, data, dice)
        part.rename(path)

    def _renamed(self, path: Path, data: bytes, dice: random.Random) -> None:
        """After it was asked about: that makes no new file."""
        self._slowly(path, data, dice)
        self._answers.wait_for(lambda names: names[path.name] == 1)
        path.rename(path.with_stem(f"{path.stem}-renamed"))

    def _replaced(self, path: Path, data: bytes, dice: random.Random) -> None:
        """After it was asked about, by other content: that is a new file."""
        self._slowly(path, data, dice)
        self._answers.wait_for(lambda names: names[path.name] == 1)
        self.expected[path.name] += 1
        other = self._photo(10_000 + int(path.stem))
        dice.choice((self._renamed_into_place, self._slowly))(path, other, dice)


def test_each_complete_file_is_asked_about_once(
    serve: Any, pictures: Any, tmp_path: Path, is_full: bool
) -> None:
    n_files, deadline_s = (500, 600.0) if is_full else (40, 120.0)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    engine = CountingEngine()
    command = [sys.executable, "-m", "secondglance.cli", "watch", str(inbox), "-q", "What?", "--json"]
    options = ["--url", serve(engine).url, "--settle", str(SETTLE_S), "--state", str(tmp_path), "--existing"]
    root = Path(__file__).parents[3]
    process = subprocess.Popen([*command, *options], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        answers = Answers(process, deadline_s=deadline_s)
        writer = Writer(inbox, answers, lambda seed: pictures.photo((160, 120), seed=seed))
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(writer.write, range(n_files)))
        answers.wait_for(lambda names: names.total() >= writer.expected.total())
        time.sleep(4 * SETTLE_S)  # whatever might be asked about twice would be by now
    finally:
        process.send_signal(signal.SIGTERM)
        answers.join()
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert answers.names == writer.expected
    assert engine.asked.total() == len(engine.asked) == writer.expected.total()
    print(f"{n_files} files: {writer.expected.total()} complete versions, each asked about once")
