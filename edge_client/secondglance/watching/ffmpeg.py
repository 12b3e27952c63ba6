"""Frames of whatever ffmpeg reads. It is a program and not a library: it knows every camera, and the edge
stays light. It comes from the PATH or with the extra `camera`.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import IO
from urllib.parse import quote

from secondglance.errors import UsageError
from secondglance.watching.mjpeg import JpegFrames
from secondglance.wire.addresses import credentials

SILENCE_S = 20.0
_CHUNK_BYTES = 65_536
_CHUNKS_AHEAD = 16
_POLL_S = 0.25
_BECOME = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.execv(sys.argv[1], sys.argv[1:])
"""


class FfmpegError(Exception):
    """ffmpeg cannot read the source, or the source says nothing."""


def ffmpeg_frames(spec: str, *, every_s: float, stopping: threading.Event) -> Iterator[bytes]:
    """Yield JPEGs, the first one at once, then one each `every_s` seconds of the source's time.

    ffmpeg is ended when the iterator is closed, when `stopping` is set, when the source is silent, and when
    this process dies. Raises FfmpegError, UsageError.
    """
    limit_s = float("inf") if os.path.isfile(spec) else SILENCE_S + every_s
    complaints: deque[bytes] = deque(maxlen=1)
    parser = JpegFrames()
    with _started(_command(spec, every_s)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        chunks: queue.Queue[bytes] = queue.Queue(_CHUNKS_AHEAD)
        threads = [
            threading.Thread(target=_pump, args=(process.stdout, chunks), daemon=True),
            threading.Thread(target=complaints.extend, args=(process.stderr,), daemon=True),
        ]
        for thread in threads:
            thread.start()  # a full pipe would hold ffmpeg up
        try:
            for chunk in _chunks(chunks, SILENCE_S, limit_s, stopping):
                yield from parser.feed(chunk)
            code = process.wait() if not stopping.is_set() else 0
        finally:
            process.kill()
            _drain(chunks, threads)
    if code:
        reason = b" ".join(complaints).decode(errors="replace").strip() or f"exit code {code}"
        raise FfmpegError(f"ffmpeg cannot read it: {reason}")


def _chunks(
    chunks: queue.Queue[bytes], first_s: float, limit_s: float, stopping: threading.Event
) -> Iterator[bytes]:
    """Yield what ffmpeg writes until it ends. Raises FfmpegError if nothing comes for too long."""
    deadline = time.monotonic() + min(first_s, limit_s) if limit_s < float("inf") else limit_s
    while not stopping.is_set():
        try:
            chunk = chunks.get(timeout=_POLL_S)
        except queue.Empty:
            if time.monotonic() > deadline:
                raise FfmpegError(f"no frame came for {SILENCE_S:.0f} seconds") from None
            continue
        if not chunk:
            return
        deadline = time.monotonic() + limit_s
        yield chunk


def _pump(pipe: IO[bytes], chunks: queue.Queue[bytes]) -> None:
    """Move a pipe into a queue; an empty chunk is its end."""
    with suppress(OSError, ValueError):
        while chunk := pipe.read1(_CHUNK_BYTES):  # type: ignore[attr-defined]  # buffered pipe
            chunks.put(chunk)
    chunks.put(b"")


def _drain(chunks: queue.Queue[bytes], threads: list[threading.Thread]) -> None:
    """Let the pipes' threads end, which may wait for room."""
    while any(thread.is_alive() for thread in threads):
        with suppress(queue.Empty):
            chunks.get(timeout=0.02)


def _command(spec: str, every_s: float) -> list[str]:
    source = ["-f", "v4l2", "-i", spec] if spec.startswith("/dev/") else ["-i", _escaped(spec)]
    # Rounded up, so that the first frame's interval has ended with it.
    pace = f"setpts=PTS-STARTPTS,fps=1/{every_s:g}:round=up"
    output = ["-vf", pace, "-q:v", "2", "-flush_packets", "1", "-f", "mpjpeg", "-"]
    return [_ffmpeg(), "-nostdin", "-loglevel", "error", *source, "-an", *output]


def _escaped(spec: str) -> str:
    """Return the address with user and password as URLs write them."""
    user, password, bare = credentials(spec)
    if bare == spec:
        return spec
    scheme, _, rest = bare.partition("://")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    return f"{scheme}://{login}@{rest}"


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a program that Linux kills when the thread that started it ends, by whatever death.

    A short Python asks for that and becomes the program: a fork with a hook is not safe among threads.
    """
    if sys.platform.startswith("linux") and sys.executable:
        command = [sys.executable, "-I", "-S", "-c", _BECOME, *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        advice = "install ffmpeg, or pip install 'second-glance[camera]'"
        raise UsageError(f"this camera needs ffmpeg, which is not on the PATH: {advice}") from None
    return str(get_ffmpeg_exe())
