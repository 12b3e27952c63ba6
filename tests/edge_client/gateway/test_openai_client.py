"""The official `openai` client against the gateway: what an app does that was only told another base URL."""

from __future__ import annotations

import io
import queue
import re
import threading
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from secondglance import EdgeClient
from secondglance_server.engine.fake import FakeEngine, FakeScript
from tests.server.exchange import key_entry

MODEL = "second-glance"
ROOT = Path(__file__).parents[3]


def first_stage_bytes(completion: Any) -> int:
    return completion.second_glance["receipt"]["stage1"]["uplink_bytes"]


def test_one_picture_is_answered_in_two_stages(app: openai.OpenAI, live: Any, photo, messages) -> None:
    """The answer equals the edge's own, and the app learns what it cost and what the first glance said."""
    done = app.chat.completions.create(model=MODEL, messages=messages.about(photo))
    with EdgeClient(live.url) as client:
        reply = client.ask(photo, "What number is on the sign?")
    choice = done.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        reply.answer,
        "stop",
    )
    assert (done.object, done.model) == ("chat.completion", "fake")
    assert done.id.startswith("chatcmpl-")
    extension = done.second_glance
    assert (extension["stage"], extension["draft"], extension["degraded"]) == (2, "a sign", None)
    assert extension["roi"] == reply.roi.model_dump(mode="json")
    assert extension["confidence"]["value"] == pytest.approx(reply.confidence.value)
    assert 0 < extension["receipt"]["uplink_bytes"] < len(photo) / 4
    assert extension["receipt"]["original_bytes"] == len(photo)
    assert extension["notes"] == []


def test_usage_sums_both_stages(app: openai.OpenAI, live: Any, photo, messages) -> None:
    done = app.chat.completions.create(model=MODEL, messages=messages.about(photo))
    with EdgeClient(live.url) as client:
        reply = client.ask(photo, "What number is on the sign?")
    stages = [reply.first.usage, reply.second.usage]
    assert done.usage.prompt_tokens == sum(usage.prompt_tokens for usage in stages)
    assert done.usage.completion_tokens == sum(usage.completion_tokens for usage in stages)
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.usage.prompt_tokens_details.cached_tokens == sum(usage.cached_tokens for usage in stages)


async def test_the_async_client_is_answered_too(base_url: str, photo, messages) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="unused") as app:
        done = await app.chat.completions.create(model=MODEL, messages=messages.about(photo))
    assert (done.choices[0].message.content, done.second_glance["stage"]) == ("42", 2)


def test_a_stream_ends_in_the_same_answer_after_the_draft(app: openai.OpenAI, photo, messages) -> None:
    asked = messages.about(photo, text="What number is streamed?")
    whole = app.chat.completions.create(model=MODEL, messages=asked)
    with app.chat.completions.create(
        model=MODEL, messages=asked, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert {(chunk.object, chunk.model) for chunk in chunks} == {("chat.completion.chunk", "fake")}
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].second_glance["draft"] == "a sign"
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].second_glance["stage"] == 2
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_without_usage_ends_with_its_reason(base_url: str, photo, messages) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="unused") as app:
        stream = await app.chat.completions.create(model=MODEL, messages=messages.about(photo), stream=True)
        chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_clients_own_stream_helper_accumulates(base_url: str, photo, messages) -> None:
    async with (
        openai.AsyncOpenAI(base_url=base_url, api_key="unused") as app,
        app.chat.completions.stream(model=MODEL, messages=messages.about(photo)) as stream,
    ):
        done = await stream.get_final_completion()
    assert done.choices[0].message.content == "42"


def test_the_first_of_several_pictures_is_asked_about(app: openai.OpenAI, pictures, messages) -> None:
    """By the size of what leaves: alone and as the first of three it is the same upload."""
    photos = [pictures.photo((900 + 100 * n, 800), seed=40 + n) for n in range(3)]
    several = app.chat.completions.create(model=MODEL, messages=messages.about(*photos))
    assert several.second_glance["receipt"]["original_bytes"] == len(photos[0])
    assert "2 more" in " ".join(several.second_glance["notes"])
    again = app.chat.completions.create(model=MODEL, messages=messages.about(photos[0]))
    assert first_stage_bytes(again) < 1500, "the first picture is known to the server"
    other = app.chat.completions.create(model=MODEL, messages=messages.about(photos[1]))
    assert first_stage_bytes(other) > 1500, "the second picture never left"


def test_a_follow_up_question_uploads_nothing(
    app: openai.OpenAI, engine: FakeEngine, pictures, messages
) -> None:
    """The app sends the whole history again, as the API wants it; the server gets the new question only."""
    photo = pictures.photo((1500, 1100), seed=7, quality=95)
    history = messages.about(photo, text="What colour is the sign?")
    first = app.chat.completions.create(model=MODEL, messages=history)
    history += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And what is written on it?"},
    ]
    engine.calls.clear()
    second = app.chat.completions.create(model=MODEL, messages=history)
    answered = [call for call in engine.calls if call.kind == "answer" and call.stage == 1]
    assert [call.questions for call in answered] == [("And what is written on it?",)]
    assert first_stage_bytes(first) > 5000
    assert first_stage_bytes(second) < 1500
    assert second.second_glance["receipt"]["original_bytes"] == len(photo)
    assert any("earlier turns" in note for note in second.second_glance["notes"])


def test_an_upload_is_asked_about_by_its_id(app: openai.OpenAI, photo) -> None:
    uploaded = app.files.create(file=("sign.jpg", photo), purpose="vision")
    assert (uploaded.bytes, uploaded.filename, uploaded.purpose) == (len(photo), "sign.jpg", "vision")
    assert app.files.retrieve(uploaded.id) == uploaded
    assert uploaded.id in [stored.id for stored in app.files.list()]
    parts = [{"type": "text", "text": "What?"}, {"type": "file", "file": {"file_id": uploaded.id}}]
    done = app.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])
    assert done.second_glance["receipt"]["original_bytes"] == len(photo)
    assert app.files.delete(uploaded.id).deleted
    with pytest.raises(openai.NotFoundError, match="no such file"):
        app.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])


def test_models_are_listed_and_found_by_every_name(app: openai.OpenAI) -> None:
    names = [model.id for model in app.models.list()]
    assert names == ["fake", "second-glance", "gpt-4o-mini"]
    assert [app.models.retrieve(name).id for name in names] == names
    with pytest.raises(openai.NotFoundError) as raised:
        app.models.retrieve("gpt-5")
    assert raised.value.code == "model_not_found"


def test_an_unknown_model_is_404(app: openai.OpenAI, photo, messages) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        app.chat.completions.create(model="gpt-5", messages=messages.about(photo))
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_a_wrong_key_is_401_and_the_right_one_passes(gateway_to, live, photo, messages) -> None:
    base_url = gateway_to(live.url, api_key="right")
    for key in ("wrong", "right2", "r"):
        with (
            openai.OpenAI(base_url=base_url, api_key=key) as app,
            pytest.raises(openai.AuthenticationError) as raised,
        ):
            app.chat.completions.create(model=MODEL, messages=messages.about(photo))
        assert raised.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=base_url, api_key="right") as app:
        done = app.chat.completions.create(model=MODEL, messages=messages.about(photo))
    assert done.choices[0].message.content == "42"


def test_the_edges_own_key_goes_to_the_server_and_the_apps_never(serve, gateway_to, photo, messages) -> None:
    """A server that wants "edge" answers an app whose key is "app"; an app's "edge" helps nobody."""
    server = serve(FakeEngine(), keys=[key_entry("edge")])
    told = gateway_to(server.url, edge={"api_key": "edge"})
    untold = gateway_to(server.url)
    with openai.OpenAI(base_url=told, api_key="app") as app:
        assert app.chat.completions.create(model=MODEL, messages=messages.about(photo)).choices
    with (
        openai.OpenAI(base_url=untold, api_key="edge") as app,
        pytest.raises(openai.InternalServerError) as raised,
    ):
        app.chat.completions.create(model=MODEL, messages=messages.about(photo))
    assert (raised.value.status_code, raised.value.code) == (502, "server_refused_key")
    assert raised.value.response.headers["x-should-retry"] == "false"


def test_a_busy_server_is_429_with_retry_after(serve, gateway_to, photo, messages) -> None:
    """The device is held and the queue has one place: of four more apps three are refused at once.

    Two of the four stream, so at least one stream is refused: by its status, before anything else.
    """
    engine = FakeEngine()
    release, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(30)

    engine.before_call = hold
    base_url = gateway_to(serve(engine, max_queue=1, max_batch=1).url)
    refused: queue.Queue[tuple[bool, openai.RateLimitError]] = queue.Queue()
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as app:

        def ask(stream: bool) -> None:
            try:
                app.chat.completions.create(model=MODEL, messages=messages.about(photo), stream=stream)
            except openai.RateLimitError as exc:
                refused.put((stream, exc))

        asking = [threading.Thread(target=ask, args=(n % 2 == 0,), daemon=True) for n in range(5)]
        try:
            asking[0].start()
            assert held.wait(20)
            for thread in asking[1:]:
                thread.start()
            errors = [refused.get(timeout=20) for _ in range(3)]
        finally:
            release.set()
            for thread in asking:
                thread.join(30)
    assert refused.empty()
    assert {stream for stream, _ in errors} == {True, False}
    for _, error in errors:
        assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
        assert int(error.response.headers["retry-after"]) >= 1


def test_the_clients_own_retries_survive_a_failure_of_the_model(serve, gateway_to, photo, messages) -> None:
    """The edge gives up at once here; the official client tries again after the 502 and is answered."""
    failures = iter([True])
    server = serve(FakeEngine(FakeScript(fails=lambda _: next(failures, False))))
    base_url = gateway_to(server.url)
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=2) as app:
        done = app.chat.completions.create(model=MODEL, messages=messages.about(photo))
    assert done.choices[0].message.content == "42"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/jpeg;base64,bm8gcGljdHVyZQ==", "invalid_image"),
        ("data:image/jpeg;base64,?", "invalid_image_url"),
        ("data:image/jpeg;base64,", "invalid_image_url"),
        ("data:image/jpeg,plain", "invalid_image_url"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("http://127.0.0.1:1/secret.jpg", "remote_url_not_allowed"),
    ],
)
def test_a_bad_picture_is_400(app: openai.OpenAI, messages, url: str, code: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        app.chat.completions.create(model=MODEL, messages=messages.about(url), stream=stream)
    assert (raised.value.code, raised.value.param) == (code, "messages")
    assert raised.value.type == "invalid_request_error"


def test_a_failed_second_stage_gives_the_draft_and_says_so(serve, gateway_to, photo, messages) -> None:
    server = serve(FakeEngine(FakeScript(fails=lambda request: request.patch is not None)))
    base_url = gateway_to(server.url)
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as app:
        done = app.chat.completions.create(model=MODEL, messages=messages.about(photo))
        assert done.choices[0].message.content == "a sign"
        assert done.second_glance["stage"] == 1
        assert done.second_glance["degraded"]
        strict = {"second_glance": {"strict": True}}
        with pytest.raises(openai.InternalServerError):
            app.chat.completions.create(model=MODEL, messages=messages.about(photo), extra_body=strict)
        stream = app.chat.completions.create(
            model=MODEL, messages=messages.about(photo), extra_body=strict, stream=True
        )
        assert next(stream).second_glance["draft"] == "a sign"
        with pytest.raises(openai.APIError, match="failed"):
            next(stream)


def test_terms_travel_in_the_extension_and_in_detail(app: openai.OpenAI, photo, messages) -> None:
    def stage(**extra: Any) -> int:
        done = app.chat.completions.create(
            model=MODEL, messages=messages.about(photo, text="What?"), extra_body={"second_glance": extra}
        )
        return done.second_glance["stage"]

    assert stage() == 2
    assert stage(mode="answer_only") == 1
    assert stage(threshold=50) == 1
    with pytest.raises(openai.BadRequestError, match="max_uplink_bytes"):
        app.chat.completions.create(
            model=MODEL,
            messages=messages.about(photo + b"\0"),
            extra_body={"second_glance": {"max_uplink_bytes": 3000}},
        )
    low = messages.about(photo, text="What?")
    low[0]["content"][1]["image_url"]["detail"] = "low"
    assert app.chat.completions.create(model=MODEL, messages=low).second_glance["stage"] == 1


def test_length_stop_and_logprobs_are_honoured(app: openai.OpenAI, photo, messages) -> None:
    ask = {"model": MODEL, "messages": messages.about(photo, text="What?")}
    draft = {"second_glance": {"mode": "answer_only"}}
    whole = app.chat.completions.create(**ask, extra_body=draft, logprobs=True)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("a sign", "stop")
    tokens = whole.choices[0].logprobs.content
    assert [(token.token, token.top_logprobs) for token in tokens] == [("a", []), (" sign", [])]
    assert tokens[0].logprob == pytest.approx(-2.0)
    short = app.chat.completions.create(**ask, extra_body=draft, max_tokens=1)
    assert short.choices[0].finish_reason == "length"
    stopped = app.chat.completions.create(**ask, extra_body=draft, stop=["si", "never"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("a ", "stop")
    huge = app.chat.completions.create(**ask, max_completion_tokens=100_000)
    assert huge.choices[0].message.content == "42", "more than the model can say is cut to that"


def test_what_was_ignored_is_noted(app: openai.OpenAI, photo, messages) -> None:
    done = app.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "Be brief."}, *messages.about(photo)],
        temperature=0.7,
        top_p=1,
        seed=3,
        user="somebody",
    )
    assert done.second_glance["notes"] == [
        "temperature is ignored: decoding is greedy",
        "system messages are ignored",
    ]


def test_system_messages_are_prepended_if_the_gateway_is_told_so(
    gateway_to, live, engine: FakeEngine, photo, messages
) -> None:
    base_url = gateway_to(live.url, system="prepend")
    engine.calls.clear()
    with openai.OpenAI(base_url=base_url, api_key="unused") as app:
        app.chat.completions.create(
            model=MODEL,
            messages=[{"role": "system", "content": "Be brief."}, *messages.about(photo, text="What?")],
        )
    assert engine.calls[0].questions == ("Be brief.\n\nWhat?",)


def test_a_picture_in_any_format_works(app: openai.OpenAI, pictures, messages) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (800, 600), "navy").save(buffer, "PNG")
    url = messages.data_uri(buffer.getvalue(), "application/octet-stream")
    assert app.chat.completions.create(model=MODEL, messages=messages.about(url)).choices


def test_a_server_that_is_not_there_is_502(gateway_to, photo, messages) -> None:
    base_url = gateway_to("http://127.0.0.1:9")
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as app:
        with pytest.raises(openai.InternalServerError) as raised:
            app.chat.completions.create(model=MODEL, messages=messages.about(photo))
        assert (raised.value.status_code, raised.value.code) == (502, "server_unavailable")
        with pytest.raises(openai.InternalServerError):
            app.models.list()


def test_the_documents_example_runs(base_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/gateway.md, word for word but for the port; from the repository's root."""
    text = (ROOT / "docs" / "gateway.md").read_text()
    [example] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    example = example.replace("http://127.0.0.1:8001/v1", base_url)
    example = example.replace("examples/photo.jpg", str(ROOT / "examples" / "photo.jpg"))
    names: dict[str, Any] = {}
    exec(compile(example, "docs/gateway.md", "exec"), names)
    names["app"].close()
    answer, sent = capsys.readouterr().out.split()
    assert answer == "42"
    assert 0 < int(sent) < 100_000


def test_the_app_is_told_that_the_model_is_not_sure(
    app: openai.OpenAI, engine: FakeEngine, photo, messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U3: in the extension for programs, in its notes for people, streamed or not."""
    sure = app.chat.completions.create(model=MODEL, messages=messages.about(photo)).second_glance
    assert (sure["doubtful"], sure["reason"], sure["off_domain"], sure["notes"]) == (False, None, None, [])
    refusal = FakeScript(draft="cannot say", draft_entropy_nats=0.7, is_off_domain=True)
    monkeypatch.setattr(engine, "script", refusal)
    told = app.chat.completions.create(model=MODEL, messages=messages.about(photo)).second_glance
    assert (told["doubtful"], told["reason"], told["off_domain"]) == (True, "off_domain", True)
    assert told["notes"] == ["(not sure) the model does not know this kind of question"]
    chunks = list(app.chat.completions.create(model=MODEL, messages=messages.about(photo), stream=True))
    (ended,) = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert ended.second_glance["doubtful"] is True
