"""Stage one in two forms: the picture as the body beside a header, or both as parts; old and new pairs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from secondglance import EdgeClient, EdgeSettings
from secondglance.conversation.requests import Ask, first_request, header_room
from secondglance.conversation.steps import Send
from secondglance.documents import parse_document
from secondglance.pictures.encoding import Encoded
from secondglance_protocol.protocol import MAX_QUESTION_BYTES, MAX_QUESTION_HEADER_BYTES
from secondglance_protocol.wire import InferenceRequest, InferenceResponse, ModelResponse
from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.http.multipart import parse_parts
from secondglance_server.settings import ServerSettings

RECORDED = Path(__file__).with_name("recorded")  # by the pair before the picture could be the body
PICTURE = Encoded(bytes(range(256)) * 9, "image/webp", (224, 168), 40)
PRINTABLE = {chr(code) for code in range(0x20, 0x7F)}

questions = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: len(text.encode()) <= MAX_QUESTION_BYTES
)


def written(question: str, picture: Any = PICTURE, **terms: Any) -> tuple[Send, Send]:
    """The request in the form that the edge takes, and as parts."""
    size, ask = (4000, 3000), Ask(question, **terms)
    taken = first_request(ask, size, picture, deadline=None, header_room=MAX_QUESTION_HEADER_BYTES)
    return taken, first_request(ask, size, picture, deadline=None)


def asked(send: Send) -> tuple[InferenceRequest, bytes | None]:
    if "X-Question" in send.headers:
        image = send.body if "Content-Type" in send.headers else None
        return InferenceRequest.model_validate_json(send.headers["X-Question"]), image
    parts = parse_parts(send.headers["Content-Type"], send.body)
    return InferenceRequest.model_validate_json(parts["request"]), parts.get("image")


def size_of(send: Send) -> int:
    return sum(len(name) + len(value) + 4 for name, value in send.headers.items()) + len(send.body)


@given(questions, st.sampled_from([PICTURE, "img_" + "a" * 40]), st.none() | st.floats(0, 100))
@example("x" * MAX_QUESTION_BYTES, PICTURE, None)
@example("\x01" * MAX_QUESTION_BYTES, PICTURE, None)
@example("門" * 30, PICTURE, 0.1)
@example("門" * 1000, PICTURE, None)
@example("\x7f\u0085\u2028\ufeff\U0001f600", PICTURE, None)
@example('\r\nX-Injected: "\\', "img_1", None)
def test_any_question_goes_in_the_shorter_form_and_means_the_same(
    question: str, picture: Any, threshold: float | None
) -> None:
    taken, parts = written(question, picture, threshold=threshold)
    assert asked(taken) == asked(parts)
    assert size_of(taken) <= size_of(parts)
    header = taken.headers.get("X-Question", "")
    assert set(header) <= PRINTABLE
    assert len(header) <= MAX_QUESTION_HEADER_BYTES


def test_most_questions_go_in_a_header_and_long_ones_as_parts() -> None:
    """The claims above would hold of an edge that never uses a header."""
    in_header = ["What number is on the sign?", "Was steht über der Tür?", "x" * 3000, "門" * 30]
    as_parts = ["x" * MAX_QUESTION_BYTES, "\x01" * 1000, "門" * 1000]
    assert all("X-Question" in written(question)[0].headers for question in in_header)
    assert not any("X-Question" in written(question)[0].headers for question in as_parts)


@pytest.mark.parametrize("question", ["What number?", "門" * 30, "門" * 1000, "x" * 4096])
def test_requests_are_planned_to_the_byte(
    serve: Any, relay_to: Callable[..., Any], pictures, question
) -> None:
    """`max_uplink_bytes` is refused or kept by these sizes; the relay counts on its own."""
    relay = relay_to(serve(FakeEngine()).port)
    sent: list[Send] = []
    with EdgeClient(
        settings=EdgeSettings(url=relay.url),
        observe=lambda step: sent.append(step) if isinstance(step, Send) else None,
    ) as client:
        for _ in range(2):  # the second time by the id of the picture
            client.ask(pictures.photo((900, 700)), question)
        planned = sum(client._size_on_wire(send) for send in sent)
    assert planned == relay.passed.up
    assert len(sent) == 5


def test_without_the_servers_word_an_edge_sends_parts(server, settings, pictures) -> None:
    server.raw_image = False
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        reply = client.ask(pictures.photo(), "What?")
        client.ask(pictures.photo(), "What else?")
    assert reply.stage == 2
    for request in server.requests["first"]:
        assert request.headers["content-type"].startswith("multipart/form-data")
        assert "x-question" not in request.headers


def test_a_new_edge_takes_an_old_servers_word_for_what_it_takes() -> None:
    recorded = (RECORDED / "model.json").read_text()
    assert "raw_image" not in json.loads(recorded)
    model = parse_document(ModelResponse, recorded)
    assert header_room(model) == 0
    assert header_room(model.model_copy(update={"raw_image": True})) == MAX_QUESTION_HEADER_BYTES


def test_an_old_edge_and_a_new_server_understand_each_other() -> None:
    """What it sent is answered, and every field that it reads is there; it ignores what it does not know."""
    head, _, body = (RECORDED / "stage-one.http").read_bytes().partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields if not field.startswith("Host"))
    method, path, _ = line.split()
    with TestClient(create_app(ServerSettings(), FakeEngine())) as client:
        reply = client.request(method, path, headers=headers, content=body)
        model = client.get("/v1/model").json()
    assert reply.status_code == 200, reply.text
    assert InferenceResponse.model_validate(reply.json()).answer == "a sign"
    recorded = json.loads((RECORDED / "model.json").read_text())
    assert recorded == {name: model[name] for name in recorded}


def test_a_header_that_a_server_cannot_take_is_not_sent(server, settings, pictures) -> None:
    """An operator's limit for heads is smaller than ours, or a hostile server says so."""
    sizes = itertools.product([1, 200, 16_384], ["What?", "x" * 150])
    for server.max_header_bytes, question in sizes:
        with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
            client.ask(pictures.photo(), question)
        is_raw = "x-question" in server.requests["first"][-1].headers
        length = len(
            json.dumps({"question": question, "image": {"width": 640, "height": 480}}).replace(" ", "")
        )
        assert is_raw is (length <= server.max_header_bytes // 2)
