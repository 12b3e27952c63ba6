"""`secondglance watch` from the outside: what it prints, hands on and remembers, and how it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from secondglance.cli import app
from tests.edge_client.counting_engine import CountingEngine

ROOT = Path(__file__).parents[3]
QUICK = ["-q", "What?", "--settle", "0.05"]


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture(autouse=True)
def url(serve: Any, engine: CountingEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    url = serve(engine).url
    monkeypatch.setenv("SECONDGLANCE_URL", url)
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRY_WAIT_S", "0.01")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return url


@pytest.fixture
def inbox(pictures: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(3):
        path = folder / f"{number}.jpg"
        path.write_bytes(pictures.photo((500, 400), seed=number))
        os.utime(path, ns=(number, number))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["watch", *map(str, arguments)])


def test_once_asks_about_what_is_new_in_order_and_remembers_it(
    inbox: Path, engine: CountingEngine, pictures: Any
) -> None:
    ran = run(inbox, *QUICK, "--once")
    assert (ran.exit_code, ran.stderr) == (0, "")
    lines = [line.split("\t") for line in ran.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(inbox / f"{number}.jpg") for number in range(3)]
    assert [line[1] for line in lines] == engine.order
    assert run(inbox, *QUICK, "--once").stdout == ""
    (inbox / "new.jpg").write_bytes(pictures.photo((500, 400), seed=9))
    assert run(inbox, *QUICK, "--once").stdout.startswith(f"{inbox / 'new.jpg'}\t")


def test_json_says_when_and_what_and_how_much_waits(inbox: Path) -> None:
    records = [json.loads(line) for line in run(inbox, *QUICK, "--once", "--json").stdout.splitlines()]
    assert [record["waiting"] for record in records][-1] == 0
    assert {record["dropped"] for record in records} == {0}
    assert records[0]["taken_at"] == "1970-01-01T00:00:00.000+00:00"
    assert {record["question"] for record in records} == {"What?"}
    assert all(record["receipt"]["uplink_bytes"] for record in records)


def test_further_questions_do_not_send_the_picture_again(inbox: Path) -> None:
    ran = run(inbox, *QUICK, "-q", "Where?", "--mode", "answer_only", "--once", "--json")
    sent = [json.loads(line)["receipt"]["stage1"]["uplink_bytes"] for line in ran.stdout.splitlines()]
    assert len(sent) == 6
    assert max(sent[1::2]) < 1500 < min(sent[::2])


def test_each_answer_is_given_to_a_program(inbox: Path, tmp_path: Path) -> None:
    script = tmp_path / "take.py"
    log = tmp_path / "log.jsonl"
    script.write_text(f"import sys; open({str(log)!r}, 'a').write(sys.stdin.read() + chr(10))")
    ran = run(inbox, *QUICK, "--once", "--json", "--cmd", f"{sys.executable} {script}")
    assert ran.exit_code == 0
    assert log.read_text() == ran.stdout


def test_an_answer_that_is_not_taken_is_told(inbox: Path) -> None:
    ran = run(inbox, *QUICK, "--once", "--cmd", "false")
    assert ran.exit_code == 1
    assert len(ran.stdout.splitlines()) == 3
    assert "0.jpg: not handed on: false ended with exit code 1" in ran.stderr


def test_a_file_that_is_no_picture_fails_and_is_not_tried_again(inbox: Path) -> None:
    (inbox / "1.jpg").write_bytes(b"\xff\xd8 no picture \xff\xd9")
    ran = run(inbox, *QUICK, "--once")
    assert (ran.exit_code, len(ran.stdout.splitlines())) == (1, 2)
    assert f"{inbox / '1.jpg'}: not a picture" in ran.stderr
    assert run(inbox, *QUICK, "--once").exit_code == 0


def test_once_without_a_server_leaves_everything_for_the_next_time(
    inbox: Path, engine: CountingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture may even be gone by then: it waits on disk."""
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRIES", "0")
    ran = run(inbox, *QUICK, "--once", "--url", "http://127.0.0.1:9")
    assert ran.exit_code == 69
    (inbox / "0.jpg").unlink()
    ran = run(inbox, *QUICK, "--once")
    assert ran.exit_code == 0
    assert [line.partition("\t")[0] for line in ran.stdout.splitlines()] == [
        str(inbox / f"{number}.jpg") for number in range(3)
    ]
    assert set(engine.asked.values()) == {1}


def test_one_frame_of_a_camera(serve_frames: Callable[..., Any], pictures: Any) -> None:
    served = serve_frames([pictures.photo((500, 400), seed=seed) for seed in range(3)])
    ran = run("--camera", f"{served.url}/mjpeg", *QUICK, "--once", "--json")
    assert ran.exit_code == 0
    (record,) = map(json.loads, ran.stdout.splitlines())
    assert record["name"][:2] == "20"


def test_a_camera_that_is_away_is_told(pictures: Any) -> None:
    ran = run("--camera", "http://user:secret@127.0.0.1:9/mjpeg", *QUICK, "--once")
    assert ran.exit_code == 69
    assert "secret" not in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["{inbox}"],
        ["-q", "What?"],
        ["{inbox}", "--camera", "http://x/", "-q", "What?"],
        ["{inbox}/nowhere", "-q", "What?"],
        ["{inbox}", "-q", "What?", "--cmd", ""],
        ["{inbox}", "-q", "What?", "--webhook", "nonsense"],
        ["{inbox}", "-q", "What?", "--spool-bytes", "0"],
        ["{inbox}", "-q", "What?", "--state", "{inbox}/0.jpg"],
    ],
    ids=" ".join,
)
def test_exit_code_2_for_wrong_usage(inbox: Path, arguments: list[str]) -> None:
    ran = run(*(argument.format(inbox=inbox) for argument in arguments))
    assert ran.exit_code == 2, ran.output
    assert ran.stderr


class Running:
    """A watch in a process of its own, whose lines are read as they come."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "secondglance.cli", "watch", *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def line(self, timeout_s: float = 30) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        data = b""
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            assert ready, "no line came"
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, f"it ended: {self.process.stderr.read().decode() if self.process.stderr else ''}"
            data += byte
        return data.decode().rstrip("\n")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def watching() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*arguments: object) -> Running:
        started.append(Running(*arguments))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)


def test_a_watch_sees_new_files_ends_on_sigterm_and_goes_on(
    watching: Callable[..., Running], inbox: Path, pictures: Any, engine: CountingEngine
) -> None:
    first = watching(inbox, *QUICK, "--existing")
    assert [first.line().partition("\t")[0] for _ in range(3)] == sorted(map(str, inbox.iterdir()))
    (inbox / "new.jpg").write_bytes(pictures.photo((500, 400), seed=5))
    assert first.line().startswith(f"{inbox / 'new.jpg'}\t")
    assert first.end(signal.SIGTERM) == 0
    (inbox / "later.jpg").write_bytes(pictures.photo((500, 400), seed=6))
    second = watching(inbox, *QUICK)
    assert second.line().startswith(f"{inbox / 'later.jpg'}\t")
    assert second.end(signal.SIGTERM) == 0
    assert len(engine.asked) == engine.asked.total() == 5


def test_what_is_there_at_the_first_start_is_not_asked_about(
    watching: Callable[..., Running], inbox: Path, pictures: Any, engine: CountingEngine
) -> None:
    """New files keep coming, because the first look at the folder gives no sign outside."""
    running = watching(inbox, *QUICK, "--json")
    assert running.process.stdout is not None
    for number in range(300):
        (inbox / f"new{number}.jpg").write_bytes(pictures.photo((64, 48), seed=number))
        if select.select([running.process.stdout], [], [], 0.2)[0]:
            break
    assert "new" in json.loads(running.line())["name"]


def test_a_killed_watch_asks_again_only_about_what_was_in_flight(
    watching: Callable[..., Running], inbox: Path, engine: CountingEngine
) -> None:
    first = watching(inbox, *QUICK, "--existing")
    first.line()
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    ran = run(inbox, *QUICK, "--once")
    assert ran.exit_code == 0
    assert len(engine.asked) == 3
    assert engine.asked.total() <= 4


def test_two_watches_of_one_folder_are_refused(watching: Callable[..., Running], inbox: Path) -> None:
    first = watching(inbox, *QUICK, "--existing")
    first.line()
    ran = run(inbox, *QUICK)
    assert ran.exit_code == 2
    assert "another process" in ran.stderr
    first.end(signal.SIGTERM)
