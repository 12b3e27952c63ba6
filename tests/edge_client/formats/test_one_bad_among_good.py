"""One bad picture among good ones, of every format and from every source: it alone fails, with its own words.

Bad are a file that is damaged and one at which a decoder raises what nobody foresaw.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pillow_heif
import pytest
from PIL import Image, ImageFile
from typer.testing import CliRunner

from secondglance import EdgeClient
from secondglance.cli import app
from secondglance.gateway.settings import GatewaySettings
from secondglance.settings import EdgeSettings
from secondglance.text import printable
from secondglance.watching import folder as folder_module
from secondglance.watching.watch import WatchPlan
from secondglance_protocol.errors import ErrorCode
from secondglance_server.engine.fake import FakeEngine
from tests.edge_client.formats.make import saved
from tests.edge_client.gateway.conftest import LiveGateway, Messages
from tests.edge_client.watching.running import RunningWatch, until
from tests.server.exchange import ask, assert_problem, running_client

KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "HEIC")
ON_SERVER = ("JPEG", "PNG", "WEBP")
GOOD_SIZE, DAMAGED_SIZE, ODD_SIZE = (48, 36), (50, 34), (52, 30)
UNEXPECTED = (
    RuntimeError("\x1b[2Jodd"),
    MemoryError(),
    StopIteration("none"),
    OSError(errno.ENOSPC, "No space left on device"),
)


def picture(kind: str, size: tuple[int, int], seed: int = 0) -> bytes:
    image = Image.effect_noise(size, 20 + seed).convert("P" if kind == "GIF" else "RGB")
    if kind != "HEIC":
        return saved(image, kind)
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90)
    return buffer.getvalue()


def damaged(kind: str) -> bytes:
    """Return a file of a sound header and a third of its pixels."""
    data = picture(kind, DAMAGED_SIZE)
    return data[: len(data) // 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each format a good, a damaged and an odd file; good ones come first and last."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, kind in enumerate(KINDS):
        suffix = kind.lower()
        (folder / f"{number}-a-good.{suffix}").write_bytes(picture(kind, GOOD_SIZE, number))
        (folder / f"{number}-b-damaged.{suffix}").write_bytes(damaged(kind))
        (folder / f"{number}-c-odd.{suffix}").write_bytes(picture(kind, ODD_SIZE, number))
        (folder / f"{number}-d-good.{suffix}").write_bytes(picture(kind, GOOD_SIZE, number + 50))
    return folder


@pytest.fixture(scope="module")
def url(serve: Any) -> str:
    url: str = serve(FakeEngine()).url
    return url


@pytest.fixture(params=UNEXPECTED, ids=lambda error: type(error).__name__)
def odd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """Let every decoder raise it at pictures of the odd size; return it."""
    error: Exception = request.param
    _break_decoders(monkeypatch, error)
    return error


def _break_decoders(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    Image.init()
    for kind in _file_classes(ImageFile.ImageFile):
        if "load" in vars(kind):
            monkeypatch.setattr(kind, "load", _failing(vars(kind)["load"], error))


def _file_classes(kind: type) -> Iterator[type]:
    yield kind
    for lower in kind.__subclasses__():
        yield from _file_classes(lower)


def _failing(load: Callable[[Any], Any], error: Exception) -> Callable[[Any], Any]:
    def failing(image: Any) -> Any:
        if image.size == ODD_SIZE:
            raise error
        return load(image)

    return failing


def of(names: list[str], what: str) -> list[str]:
    return sorted(name for name in names if f"-{what}." in name)


def all_names(folder: Path, what: str) -> list[str]:
    return of([path.name for path in folder.iterdir()], what)


def assert_each_has_its_own(said: list[str], folder: Path, odd: Exception) -> None:
    """One line for each bad file, with the file's name and what is wrong with it."""
    for name in all_names(folder, "damaged") + all_names(folder, "odd"):
        (line,) = [line for line in said if name in line]
        assert "picture" in line or "HEIC" in line, line
        if "-odd." in name:
            reason = str(odd).replace("\x1b", "\\x1b") or type(odd).__name__
            assert reason in line
    assert "\x1b" not in "".join(said)


def test_batch_lists_each_bad_picture_and_answers_the_others(
    folder: Path, odd: Exception, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: a batch ended without a line at the first picture whose decoder raised RuntimeError."""
    monkeypatch.setenv("SECONDGLANCE_URL", url)
    out = tmp_path / "results.jsonl"
    ran = CliRunner().invoke(app, ["batch", str(folder), "-q", "What?", "--out", str(out)])
    assert ran.exit_code == 1, ran.output
    names = [Path(json.loads(line)["path"]).name for line in out.read_text().splitlines()]
    assert sorted(names) == all_names(folder, "good")
    assert_each_has_its_own(ran.stderr.splitlines(), folder, odd)


@pytest.mark.parametrize("min_change_percent", [0.0, 0.01])
def test_watch_of_a_folder_records_each_bad_picture_and_answers_the_others(
    folder: Path,
    odd: Exception,
    url: str,
    tmp_path: Path,
    min_change_percent: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I1: a watch died at every start, as it met the same picture each time."""
    monkeypatch.setattr(folder_module, "looks_whole", bool)  # which would wait half a minute for the rest
    plan = WatchPlan(("What?",), folder, settle_s=0.01, once=True, min_change_percent=min_change_percent)
    with EdgeClient(url) as client:
        running = RunningWatch(plan, tmp_path / "state")
        running.ask = client.ask
        with running:
            until(lambda: not running.thread.is_alive())
    assert running.error is None
    assert sorted(Path(name).name for name in running.answered_names) == all_names(folder, "good")
    failures = zip(running.failed_names, running.errors, strict=True)
    failed = [printable(f"{Path(name).name}: {error}") for name, error in failures]
    assert_each_has_its_own(failed, folder, odd)


def test_the_gateway_refuses_each_bad_picture_and_answers_the_others(
    folder: Path, odd: Exception, url: str
) -> None:
    """I1: it answered 500."""
    gateway = LiveGateway(GatewaySettings(), EdgeSettings(url=url))
    said = []
    try:
        with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
            for path in sorted(folder.iterdir()):
                messages = Messages.about(path.read_bytes(), text="What?")
                response = client.post(
                    "/chat/completions", json={"model": "second-glance", "messages": messages}
                )
                if "-good." in path.name:
                    assert response.status_code == 200, response.text
                    continue
                error = response.json()["error"]
                assert (response.status_code, error["code"]) == (400, "invalid_image")
                said.append(printable(f"{path.name}: {error['message']}"))
    finally:
        gateway.close()
    assert_each_has_its_own(said, folder, odd)


async def test_the_server_refuses_each_bad_picture_and_answers_the_others(odd: Exception) -> None:
    """All at a time. Without memory it is the server's own fault; the others are answered all the same."""
    async with running_client(FakeEngine()) as client:

        async def answer(data: bytes) -> httpx.Response:
            return await ask(client, upload=data)

        bad = {kind: (damaged(kind), picture(kind, ODD_SIZE)) for kind in ON_SERVER}
        good = [picture(kind, GOOD_SIZE, seed) for seed in range(3) for kind in ON_SERVER]
        uploads = [data for pair in bad.values() for data in pair] + good
        replies = await asyncio.gather(*map(answer, uploads))
        for number, kind in enumerate(ON_SERVER):
            problem = assert_problem(replies[2 * number], 422, ErrorCode.UNREADABLE_IMAGE)
            assert kind in problem["detail"]
            expected = (500, "internal_error") if isinstance(odd, MemoryError) else (422, "unreadable_image")
            assert_problem(replies[2 * number + 1], *expected)
        assert {reply.status_code for reply in replies[2 * len(bad) :]} == {200}
