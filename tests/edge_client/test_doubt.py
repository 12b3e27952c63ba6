"""U1-U3: how sure an answer is, in words wherever it is shown; and edges and servers of different age."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ConfigDict, create_model
from typer.testing import CliRunner, Result

from secondglance import EdgeClient, Hooks
from secondglance.cli import app
from secondglance.show.answer_sheet import caption_lines
from secondglance.text import NOT_SURE
from secondglance_protocol.reasons import REASONS
from secondglance_protocol.wire import DefaultGate, InferenceResponse, ModelResponse
from secondglance_server.engine.fake import FAKE_INFO, FakeEngine, FakeScript

DOMAIN = "signs that are drawn"
UNSURE = FakeScript(answer_entropy_nats=2.0)
REFUSAL = FakeScript(draft="cannot say", draft_entropy_nats=0.7, is_off_domain=True)
SILENT = FakeScript(draft="", answer="")
NEW_FIELDS: dict[type[BaseModel], set[str]] = {
    InferenceResponse: {"doubtful", "reason", "off_domain"},
    ModelResponse: {"domain"},
    DefaultGate: {"doubt_threshold"},
}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(info=replace(FAKE_INFO, domain=DOMAIN))


@pytest.fixture(scope="module")
def served(serve: Any, engine: FakeEngine) -> str:
    return serve(engine).url


@pytest.fixture(autouse=True)
def url(served: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> str:
    engine.script = FakeScript()
    monkeypatch.setenv("SECONDGLANCE_URL", served)
    return served


@pytest.fixture
def photos(pictures: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(pictures.photo((2000, 1500)))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


SCRIPTS = {
    "unsure": (UNSURE, "the answer may be wrong", None),
    "off_domain": (REFUSAL, REASONS["off_domain"], "off_domain"),
    "silent": (SILENT, "the model gave no answer", "empty_answer"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_ask_says_in_words_that_it_is_not_sure_also_into_a_pipe(
    engine: FakeEngine, photos: Path, name: str
) -> None:
    """U1-U3: a sure wrong answer, an empty line, a doubt that only the JSON's numbers showed."""
    engine.script, words, reason = SCRIPTS[name]
    photo = photos / "photo.jpg"
    told = run("ask", photo, "What?")
    assert told.exit_code == 0
    assert told.stderr.startswith(f"secondglance: {NOT_SURE} ")
    assert words in told.stderr
    assert NOT_SURE not in told.stdout
    failed = run("ask", photo, "What?", "--fail-on-doubt")
    assert (failed.exit_code, failed.stdout) == (3, told.stdout)
    document = run("ask", photo, "What?", "--json", "--fail-on-doubt")
    found = json.loads(document.stdout)
    assert (document.exit_code, found["doubtful"], found["reason"]) == (3, True, reason)
    assert found["off_domain"] is (True if name == "off_domain" else None)
    assert words in document.stderr


def test_a_sure_answer_is_silent_and_ends_with_0(photos: Path) -> None:
    ran = run("ask", photos / "photo.jpg", "What?", "--fail-on-doubt")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "42\n", "")


def test_a_skipped_second_stage_says_why(engine: FakeEngine, pictures: Any, tmp_path: Path) -> None:
    """U3: a skipped second stage had no reason in the reply."""
    small = tmp_path / "small.jpg"
    small.write_bytes(pictures.photo((300, 200)))
    ran = run("ask", small, "What?")
    assert f"no second look: {REASONS['original_seen']}" in ran.stderr
    assert json.loads(run("ask", small, "What?", "--json").stdout)["reason"] == "original_seen"


def test_the_outputs_are_written_before_fail_on_doubt_ends(
    engine: FakeEngine, photos: Path, tmp_path: Path
) -> None:
    engine.script = UNSURE
    sheet, page = tmp_path / "out.png", tmp_path / "out.html"
    outputs = ("--picture", sheet, "--report", page)
    assert run("ask", photos / "photo.jpg", "What?", "--fail-on-doubt", *outputs).exit_code == 3
    assert sheet.exists()
    assert NOT_SURE in page.read_text()


def test_the_drawn_picture_says_it(engine: FakeEngine, url: str, photos: Path) -> None:
    def caption() -> str:
        with EdgeClient(url) as client:
            reply = client.ask(photos / "photo.jpg", "What?")
        return " | ".join(line.text for line in caption_lines("What?", reply))

    assert NOT_SURE not in caption()
    engine.script = UNSURE
    assert f"{NOT_SURE} the answer may be wrong" in caption()


def test_batch_marks_doubtful_answers_in_a_last_column_and_counts_them(
    engine: FakeEngine, photos: Path
) -> None:
    sure = run("batch", photos, "-q", "What?")
    assert sure.stdout == f"{photos / 'photo.jpg'}\t42\n"
    engine.script = UNSURE
    marked = run("batch", photos, "-q", "What?", "-q", "Where?")
    assert [line.split("\t")[1:] for line in marked.stdout.splitlines()] == [
        ["What?", "42", NOT_SURE],
        ["Where?", "42", NOT_SURE],
    ]
    record = json.loads(run("batch", photos, "-q", "What?", "--json").stdout)
    assert record["doubtful"] is True


def test_watch_and_its_programs_are_told(engine: FakeEngine, photos: Path, tmp_path: Path) -> None:
    engine.script = UNSURE
    log, script = tmp_path / "log.jsonl", tmp_path / "keep.py"
    script.write_text(f"import sys; open({str(log)!r}, 'a').write(sys.stdin.read() + chr(10))")
    quick = ("-q", "What?", "--once", "--settle", "0.05", "--existing")
    text = run("watch", photos, *quick, "--state", tmp_path / "first")
    assert text.stdout.splitlines() == [f"{photos / 'photo.jpg'}\t42\t{NOT_SURE}"]
    program = f"{sys.executable} {script}"
    shown = run("watch", photos, *quick, "--state", tmp_path / "second", "--json", "--cmd", program)
    assert [json.loads(line)["doubtful"] for line in shown.stdout.splitlines()] == [True]
    assert [json.loads(line)["doubtful"] for line in log.read_text().splitlines() if line] == [True]


def test_hooks_are_told_of_each_stage(engine: FakeEngine, url: str, photos: Path) -> None:
    seen: list[bool | None] = []
    with EdgeClient(url, hooks=Hooks(on_answer=lambda reply: seen.append(reply.doubtful))) as client:
        client.ask(photos / "photo.jpg", "What?")
    assert seen == [True, False]


def test_doctor_names_the_models_domain(url: str) -> None:
    ran = run("doctor", "--url", url, "--probe-bytes", "0")
    assert f"it answers about {DOMAIN}" in ran.stdout


class OldServer:
    """A server that was written before this: every new field is missing from what it says."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self.removed: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        reply = self._http.request(request.method, request.url.path, content=request.read(), headers=headers)
        document = reply.json()
        for fields in NEW_FIELDS.values():
            for part in (document, document.get("gate", {})):
                self.removed |= fields & part.keys()
                for name in fields:
                    part.pop(name, None)
        return httpx.Response(reply.status_code, json=document)


@pytest.mark.parametrize(("script", "doubtful"), [(FakeScript(), False), (UNSURE, True), (SILENT, True)])
def test_of_an_older_server_the_gates_own_threshold_decides(
    engine: FakeEngine, url: str, photos: Path, script: FakeScript, doubtful: bool
) -> None:
    engine.script = script
    with httpx.Client(base_url=url) as http:
        old = OldServer(http)
        with EdgeClient(url, transport=httpx.MockTransport(old)) as client:
            reply = client.ask(photos / "photo.jpg", "What?")
            assert client.model().domain is None
    assert (reply.doubtful, reply.reason, reply.off_domain) == (doubtful, None, None)
    assert any(NOT_SURE in note for note in reply.notes) is doubtful
    assert old.removed == set().union(*NEW_FIELDS.values()), "this server says nothing new: no test"


def test_an_older_edge_reads_a_newer_servers_replies(engine: FakeEngine, url: str, photos: Path) -> None:
    """An edge ignores fields that it does not know; all that it needs is still there, of the same type."""
    engine.script = REFUSAL
    with EdgeClient(url) as client:
        reply = client.ask(photos / "photo.jpg", "What?")
        model = client.model()
    assert (reply.off_domain, model.domain) == (True, DOMAIN)
    gate = _before(DefaultGate)
    for document, known in (
        (reply.final, _before(InferenceResponse)),
        (model, _before(ModelResponse, gate=(gate, ...))),
    ):
        read = known.model_validate_json(document.model_dump_json(), extra="ignore")
        assert not NEW_FIELDS[type(document)] & read.model_dump().keys()
        assert read.model_dump().keys() == type(document).model_fields.keys() - NEW_FIELDS[type(document)]


def _before(model: type[BaseModel], **changed: Any) -> type[BaseModel]:
    """Return the model as it was before the new fields, as strict about others as it is."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in model.model_fields.items()
        if name not in NEW_FIELDS[model]
    }
    return create_model(f"Old{model.__name__}", __config__=ConfigDict(extra="forbid"), **(fields | changed))


def test_a_reason_that_only_a_newer_server_knows_is_shown_by_its_name(
    engine: FakeEngine, url: str, photos: Path
) -> None:
    engine.script = REFUSAL

    def newer(request: httpx.Request) -> httpx.Response:
        reply = httpx.request(
            request.method, f"{url}{request.url.path}", content=request.read(), headers=dict(request.headers)
        )
        document = reply.json()
        if "reason" in document:
            document |= {"reason": "moon_too_bright", "off_domain": None}
        return httpx.Response(reply.status_code, json=document)

    with EdgeClient(url, transport=httpx.MockTransport(newer)) as client:
        reply = client.ask(photos / "photo.jpg", "What?")
    assert reply.notes == (f"{NOT_SURE} no second look: moon_too_bright",)
