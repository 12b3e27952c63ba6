"""`secondglance batch`: one result for each picture, nothing asked twice, failures told and survived."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from secondglance.cli import app
from secondglance_server.engine.fake import FakeScript
from tests.edge_client.counting_engine import CountingEngine
from tests.edge_client.terminal import in_terminal
from tests.server.exchange import key_entry

Q = ["-q", "What?"]


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def url(serve: Any, engine: CountingEngine, monkeypatch: pytest.MonkeyPatch) -> str:
    url = serve(engine).url
    monkeypatch.setenv("SECONDGLANCE_URL", url)
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRY_WAIT_S", "0.001")
    return url


@pytest.fixture
def photos(pictures: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(5):
        name = f"sub/{number}.jpg" if number > 2 else f"{number}.jpg"
        (folder / name).write_bytes(pictures.photo((500, 400), seed=number))
    return folder


def run(*arguments: object, listing: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["batch", *map(str, arguments)], input=listing)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("url")
def test_every_picture_gets_one_result_and_a_second_run_sends_nothing(
    engine: CountingEngine, photos: Path, tmp_path: Path, relay_to: Any, url: str
) -> None:
    out = tmp_path / "results.jsonl"
    relay = relay_to(int(url.rpartition(":")[2]))
    first = run(photos, *Q, "--out", out, "--resume", "--url", relay.url)
    assert (first.exit_code, first.stdout, first.stderr) == (0, "", "")
    assert sorted(record["path"] for record in records(out)) == sorted(map(str, photos.rglob("*.jpg")))
    assert {record["answer"] for record in records(out)} == set(engine.asked)
    before = (len(relay.connections), out.read_bytes())
    second = run(photos, *Q, "--out", out, "--resume", "--url", relay.url)
    assert (second.exit_code, second.stderr) == (0, "")
    assert (len(relay.connections), out.read_bytes()) == before


@pytest.mark.usefixtures("url")
def test_a_picture_that_was_replaced_or_added_is_asked_about(
    engine: CountingEngine, photos: Path, tmp_path: Path, pictures: Any
) -> None:
    out = tmp_path / "results.jsonl"
    run(photos, *Q, "--out", out)
    (photos / "0.jpg").write_bytes(pictures.photo((500, 400), seed=70))
    (photos / "new.jpg").write_bytes(pictures.photo((500, 400), seed=71))
    assert run(photos, *Q, "--out", out, "--resume").exit_code == 0
    assert [Path(record["path"]).name for record in records(out)[5:]] in (
        ["0.jpg", "new.jpg"],
        ["new.jpg", "0.jpg"],
    )
    assert set(engine.asked.values()) == {1}


@pytest.mark.usefixtures("url")
def test_an_answer_that_was_not_written_down_is_not_inferred_again(
    engine: CountingEngine, photos: Path, tmp_path: Path
) -> None:
    """Killed between the answer and the end of its line: asked again, the server replays both stages."""
    out = tmp_path / "results.jsonl"
    run(photos, *Q, "--out", out)
    whole = records(out)
    out.write_bytes(out.read_bytes()[:-20])
    assert run(photos, *Q, "--out", out, "--resume").exit_code == 0
    assert records(out)[-1]["id"] == whole[-1]["id"]
    assert set(engine.asked.values()) == set(engine.looked_again.values()) == {1}


@pytest.mark.usefixtures("url")
def test_a_new_question_is_asked_and_the_old_one_is_not(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    questions = tmp_path / "questions.txt"
    questions.write_text("Where?\n\nWhat?\n")
    run(photos, *Q, "--out", out)
    assert run(photos, *Q, "--questions", questions, "--out", out, "--resume").exit_code == 0
    assert sorted(record["question"] for record in records(out)) == ["What?"] * 5 + ["Where?"] * 5


@pytest.mark.usefixtures("url")
def test_further_questions_about_a_picture_do_not_send_it_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    run(photos / "0.jpg", *Q, "-q", "Where?", "--mode", "answer_only", "--out", out)
    first, second = (record["receipt"]["stage1"]["uplink_bytes"] for record in records(out))
    assert second < 1500 < first


@pytest.mark.usefixtures("url")
def test_failures_are_listed_and_tried_again(
    engine: CountingEngine, photos: Path, tmp_path: Path, pictures: Any
) -> None:
    out = tmp_path / "results.jsonl"
    (photos / "1.jpg").write_text("no picture")
    ran = run(photos, *Q, "--out", out)
    assert ran.exit_code == 1
    assert f"{photos / '1.jpg'}: not a picture" in ran.stderr
    assert "1 failed, 4 answered" in ran.stderr
    assert len(records(out)) == 4
    (photos / "1.jpg").write_bytes(pictures.photo((500, 400), seed=1))
    assert run(photos, *Q, "--out", out, "--resume").exit_code == 0
    assert len(records(out)) == 5
    assert set(engine.asked.values()) == {1}


@pytest.mark.usefixtures("url")
def test_a_list_on_stdin_may_name_what_is_gone(photos: Path) -> None:
    listing = f"{photos / '0.jpg'}\n{photos / 'gone.jpg'}\n".encode()
    ran = run("-", *Q, listing=listing)
    assert ran.exit_code == 1
    assert ran.stdout.startswith(f"{photos / '0.jpg'}\timg_")
    assert "gone.jpg: No such file" in ran.stderr


@pytest.mark.usefixtures("url")
def test_lines_on_stdout_are_text_or_json(photos: Path) -> None:
    text = run(photos, *Q, "-q", "Where?", "-j", "1").stdout.splitlines()
    assert [line.split("\t")[:2] for line in text[:2]] == [
        [str(photos / "0.jpg"), "What?"],
        [str(photos / "0.jpg"), "Where?"],
    ]
    as_json = run(photos, *Q, "--json", "-j", "1").stdout.splitlines()
    assert [json.loads(line)["path"] for line in as_json] == [line.split("\t")[0] for line in text[::2]]


@pytest.mark.usefixtures("url")
def test_a_model_that_fails_on_one_picture_fails_that_one(
    engine: CountingEngine, photos: Path, tmp_path: Path
) -> None:
    """The server says so after its own retries; that is no reason to wait for it."""
    victims: list[str] = []

    def fails(request: Any) -> bool:
        victims.append(request.picture.key)
        return bool(request.picture.key == victims[0])

    engine.script = FakeScript(fails=fails)
    ran = run(photos, *Q, "--out", tmp_path / "results.jsonl", "-j", "1")
    assert (ran.exit_code, len(records(tmp_path / "results.jsonl"))) == (1, 4)


def test_a_server_that_stays_away_stops_the_run(photos: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    out = tmp_path / "results.jsonl"
    ran = run(photos, *Q, "--out", out, "--url", f"http://127.0.0.1:{port}", "--wait", "0")
    assert ran.exit_code == 69
    assert "5 of 5 questions are left: cannot connect" in ran.stderr


def test_a_server_that_comes_back_in_time_is_waited_for(
    serve: Any, engine: CountingEngine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens at first; the server starts when the edge has failed for the first time."""
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRIES", "0")
    from secondglance.batch import asking

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    original, started = asking.wait_s, []

    def wait_s(policy: Any, failures: int) -> float:
        if not started:
            started.append(serve(engine, port=port))
        return original(policy, failures)

    monkeypatch.setattr(asking, "wait_s", wait_s)
    ran = run(photos, *Q, "--out", tmp_path / "results.jsonl", "--url", f"http://127.0.0.1:{port}")
    assert (ran.exit_code, len(records(tmp_path / "results.jsonl"))) == (0, 5)
    assert set(engine.asked.values()) == {1}


def test_on_a_terminal_the_time_left_and_the_bytes_saved_are_shown_and_stdout_stays_clean(
    url: str, photos: Path
) -> None:
    said, shown = in_terminal("batch", photos, *Q, "--url", url, "-j", "1")
    assert [line.split("\t")[0] for line in said.splitlines()] == [
        str(photos / name) for name in ("0.jpg", "1.jpg", "2.jpg", "sub/3.jpg", "sub/4.jpg")
    ]
    assert "5/5" in shown
    assert "5 answered" in shown
    assert "saved" in shown
    assert "0:00:0" in shown


def _hear_interrupts() -> None:
    """Tests that a shell runs in the background inherit that SIGINT is ignored, and so would the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupt_keeps_what_was_answered(
    url: str, engine: CountingEngine, photos: Path, tmp_path: Path
) -> None:
    engine.script = FakeScript(delay_s=0.2)
    out = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "secondglance.cli", "batch", str(photos), *Q, "--url", url, "-j", "1"]
    with subprocess.Popen(
        [*command, "--out", str(out)], stderr=subprocess.PIPE, preexec_fn=_hear_interrupts
    ) as process:
        while not (out.exists() and out.read_bytes().endswith(b"\n")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted: " in errors
    assert b"Traceback" not in errors
    assert 1 <= len(records(out)) < 5


def test_a_wrong_key_stops_the_run(serve: Any, photos: Path) -> None:
    ran = run(photos, *Q, "--url", serve(CountingEngine(), keys=[key_entry("right")]).url)
    assert ran.exit_code == 77
    assert "5 of 5 questions are left" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["{photos}"],
        [*Q],
        ["{photos}", *Q, "--resume"],
        ["{photos}", *Q, "--concurrency", "0"],
        ["{photos}/nothing", *Q],
        ["{photos}", *Q, "--questions", "/nowhere"],
        ["{photos}", *Q, "--out", "/nowhere/results.jsonl"],
        ["{photos}", "-q", "x" * 5000],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
@pytest.mark.usefixtures("url")
def test_exit_code_2_for_wrong_usage(photos: Path, arguments: list[str]) -> None:
    ran = run(*(argument.format(photos=photos) for argument in arguments))
    assert ran.exit_code == 2, ran.output
    assert ran.stderr


def test_e16_what_holds_no_picture_is_said(tmp_path: Path) -> None:
    """E16: `batch` on an empty folder ended with nothing said."""
    (tmp_path / "notes.txt").write_text("no picture")
    for name, listing in ((str(tmp_path), b""), (str(tmp_path / "*.txt"), b""), ("-", b"\n")):
        ran = run(name, "-q", "What?", "--url", "http://127.0.0.1:9", listing=listing)
        assert ran.exit_code == 0
        assert f"no picture in {'the list' if name == '-' else name}" in ran.stderr
