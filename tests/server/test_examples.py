"""The curl example does both stages against a running server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from secondglance_server.engine.fake import FakeEngine
from secondglance_server.testing import serving
from tests.needs import needs_program
from tests.server.exchange import encode, key_entry, live_server

SCRIPT = Path(__file__).parents[2] / "examples" / "two_stages.sh"

needs_curl = needs_program("curl", package="curl")


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and everything printed; `python3` is this interpreter."""
    bin_folder = str(Path(sys.executable).parent)
    process = await asyncio.create_subprocess_exec(
        str(SCRIPT),
        *arguments,
        env={**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@needs_curl
async def test_the_script_gets_a_draft_and_an_answer(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(4000, 3000))
    async with live_server(FakeEngine(), keys=[key_entry("secret")]) as url:
        code, output = await run(url, str(photo), "What is it?", SECONDGLANCE_API_KEY="secret")
    assert code == 0, output
    assert "stage 1: needs_patch, draft answer: a sign\n" in output
    assert "stage 2: answered, answer: 42\n" in output


@needs_curl
@pytest.mark.live
async def test_the_script_ends_with_what_is_on_the_sign() -> None:
    """U7: it drew a photo of its own, in a font that the model cannot read, and ended with a wrong answer."""
    truth = json.loads(SCRIPT.with_name("photo.json").read_text())
    with serving() as url:
        code, output = await run(url)
    assert code == 0, output
    assert f"stage 2: answered, answer: {truth['answer']}\n" in output
    assert truth["question"] in SCRIPT.read_text()


@needs_curl
async def test_the_script_fails_with_the_server() -> None:
    async with live_server(FakeEngine(), keys=[key_entry("secret")]) as url:
        code, output = await run(url, SECONDGLANCE_API_KEY="secret")
        assert (code, "stage 2" in output) == (0, True), output
        code, output = await run(url, SECONDGLANCE_API_KEY="wrong")
        assert code != 0
