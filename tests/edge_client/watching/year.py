"""A year of a watch: a process of its own, and all that its server, hook, disk and clock do to it."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from secondglance.text import shown_path

ROOT = Path(__file__).parents[3]
NAMES = [
    "{}.jpg",
    "caf\udce9 {}.jpg",
    "\udcff\udcfe{}.JPEG",
    "new\nline {}.jpg",
    "\x1b[2J{}.jpg",
    "ein Bild {}.jpg",
]
TIMES = [0, 1, -1, 2**31, 2**32, 2**33, 4_102_444_800]  # within what the file systems of tests hold
MAX_BEHIND = 150  # pictures that fit the caps wherever they wait
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
_START = """
import pathlib, sys, time
wall, offset = time.time, pathlib.Path(sys.argv.pop(1))
time.time = lambda: wall() + float(offset.read_text())
from secondglance.cli import main
main()
"""


class Gate:
    """A relay to a port on loopback that can be shut: then it hangs up on everybody."""

    def __init__(self, port: int) -> None:
        self.is_open = True
        self._port = port
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        self.is_open = False
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.shut()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._server.accept()[0]
            except OSError:
                return
            if not self.is_open:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._port))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        self._open.add(source)
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()


class Hook:
    """Takes answers; while `trouble` is set it replies that instead. `taken` counts names by answer id."""

    def __init__(self) -> None:
        self.trouble: tuple[int, dict[str, str]] | None = None
        self.taken: dict[str, str] = {}
        self.posts = 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                record = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, headers = hook.trouble or (204, {})
                if status == 204:
                    hook.taken[record["id"]] = record["name"]
                    hook.posts += 1
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Year:
    """Plays seeded events against a watch, and keeps what must come of them in `expected`."""

    def __init__(
        self, folder: Path, port: int, photo: Callable[[int], bytes], camera: Callable[[random.Random], None]
    ) -> None:
        self.gate, self.hook = Gate(port), Hook()
        self.inbox, self.status_file = folder / "inbox", folder / "status.json"
        self.inbox.mkdir()
        self.expected: Counter[str] = Counter()
        self.kills = self.aways = 0
        self.open_files: list[int] = []
        self.memory_bytes: list[int] = []
        self.events: Counter[str] = Counter()
        self._folder, self._photo, self._camera = folder, photo, camera
        self._offset, self._errors = folder / "offset", folder / "stderr"
        self._offset.write_text("0")
        self._files: dict[Path, str] = {}  # and the name of each in answers
        self.start()

    @property
    def said(self) -> str:
        return self._errors.read_text(errors="replace")

    def start(self) -> None:
        """Start the watch, and wait until its source is up."""
        options = ["--json", "--existing", "--settle", "0.05", "--state", str(self._folder / "state")]
        options += ["--status-file", str(self.status_file), "--url", self.gate.url]
        options += ["--webhook", self.hook.url, "--spool-bytes", "8000000"]
        command = [sys.executable, "-c", _START, str(self._offset), "watch", str(self.inbox), "-q", "What?"]
        environment = os.environ | {
            "SECONDGLANCE_EDGE_RETRIES": "0",
            "SECONDGLANCE_EDGE_RETRY_WAIT_S": "0.05",
            "SECONDGLANCE_EDGE_MAX_RETRY_WAIT_S": "0.4",
        }
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, *options], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors
            )
        self.wait_for(lambda: self.status().get("pid") == self.process.pid)

    def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.status_file.read_text()))
        except (OSError, ValueError):
            return {}

    def wait_for(self, condition: Callable[[], bool], seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, (
                f"it ended with {self.process.returncode}: {self.said[-2000:]}"
            )
            assert time.monotonic() < deadline, f"it does not come about: {self.status()} {self.said[-2000:]}"
            time.sleep(0.02)

    def play(self, dice: random.Random, number: int) -> None:
        """One event, once the watch is not too far behind."""
        self.wait_for(lambda: self.expected.total() - len(self.hook.taken) < MAX_BEHIND)
        weights = {
            self._new: 60,
            self._replaced: 8,
            self._removed: 8,
            self._renamed: 4,
            self._touched: 4,
            self._restored: 1,
            self._unmounted: 1,
            self._clock_stepped: 4,
            self._huge: 1,
            self._disk_full: 1,
            self._server_away: 2,
            self._hook_away: 3,
            self._killed: 1,
            self._camera_seen: 2,
        }
        if len(self._files) > 80:
            weights[self._removed] = 80
        event = dice.choices(list(weights), list(weights.values()))[0]
        self.events[event.__name__.strip("_")] += 1
        event(dice, number)
        if number % 10 == 0:
            self._measure()

    def settle(self) -> None:
        """Everything works again; wait until nothing waits."""
        self.gate.is_open, self.hook.trouble = True, None
        total = self.expected.total()
        self.wait_for(lambda: len(self.hook.taken) >= total)
        self.wait_for(lambda: (self.status()["waiting"], self.status()["to_hand_on"]) == (0, 0))

    def close(self) -> None:
        """End the watch, if it is still there, by SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        self.gate.close()
        self.hook.close()

    def children(self) -> list[int]:
        """Processes that the watch has started and not ended."""
        return [
            int(child)
            for task in Path(f"/proc/{self.process.pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]

    def _measure(self) -> None:
        process = Path(f"/proc/{self.process.pid}")
        self.open_files.append(len(list((process / "fd").iterdir())))
        pages = int((process / "statm").read_text().split()[1])
        self.memory_bytes.append(pages * os.sysconf("SC_PAGE_SIZE"))

    def _write(self, path: Path, number: int) -> None:
        part = path.with_name("x.part")
        part.write_bytes(self._photo(number))
        part.replace(path)
        self._files[path] = shown_path(str(path))
        self.expected[self._files[path]] += 1

    def _answered(self, dice: random.Random) -> Path | None:
        """A file whose every version has been answered, so that nothing is lost by changing it."""
        taken = Counter(self.hook.taken.values())
        done = [path for path, name in self._files.items() if taken[name] == self.expected[name]]
        return dice.choice(done) if done else None

    def _new(self, dice: random.Random, number: int) -> None:
        folder = dice.choice([self.inbox, self.inbox / "sub", self.inbox / "f\udcf6lder"])
        folder.mkdir(exist_ok=True)
        path = folder / dice.choice(NAMES).format(number)
        self._write(path, number)
        if dice.random() < 0.2:
            with suppress(OSError, OverflowError):
                os.utime(path, (0, dice.choice(TIMES)))

    def _replaced(self, dice: random.Random, number: int) -> None:
        if (path := self._answered(dice)) is not None:
            self._write(path, number)

    def _removed(self, dice: random.Random, number: int) -> None:
        if (path := self._answered(dice)) is not None:
            path.unlink()
            del self._files[path]

    def _renamed(self, dice: random.Random, number: int) -> None:
        if (path := self._answered(dice)) is not None:
            new = path.with_name(f"renamed {number}.jpg")
            path.rename(new)
            del self._files[path]
            self._files[new] = shown_path(str(new))

    def _touched(self, dice: random.Random, number: int) -> None:
        if (path := self._answered(dice)) is not None:
            os.utime(path)

    def _restored(self, dice: random.Random, number: int) -> None:
        copy, away = self._folder / "copy", self._folder / "away"
        shutil.copytree(self.inbox, copy, copy_function=dice.choice([shutil.copy2, shutil.copyfile]))
        self.inbox.rename(away)
        copy.rename(self.inbox)
        shutil.rmtree(away)

    def _unmounted(self, dice: random.Random, number: int) -> None:
        self.inbox.rename(self._folder / "away")
        is_empty_there = dice.random() < 0.5
        if is_empty_there:
            self.inbox.mkdir()
        time.sleep(0.3)
        if is_empty_there:
            self.inbox.rmdir()
        (self._folder / "away").rename(self.inbox)

    def _clock_stepped(self, dice: random.Random, number: int) -> None:
        new = self._folder / "offset.new"
        new.write_text(str(dice.choice([-1, 1]) * dice.uniform(0, 3e8)))
        new.replace(self._offset)

    def _huge(self, dice: random.Random, number: int) -> None:
        path = self.inbox / f"huge {number}.jpg"
        with path.open("wb") as file:
            file.truncate(3 * 2**30)
        self.wait_for(lambda: f"{path.name}: 3221225472 bytes are more" in self.said)
        path.unlink()

    def _disk_full(self, dice: random.Random, number: int) -> None:
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (4096, NO_LIMIT[1]))
        self._new(dice, number)
        time.sleep(0.5)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, NO_LIMIT)

    def _server_away(self, dice: random.Random, number: int) -> None:
        self.aways += 1
        self.gate.shut()
        for each in range(3):
            self._new(dice, 1_000_000 * (1 + each) + number)
        time.sleep(0.3)
        self.gate.is_open = True

    def _hook_away(self, dice: random.Random, number: int) -> None:
        self.aways += 1
        troubles: list[tuple[int, dict[str, str]]] = [(500, {}), (429, {"Retry-After": "1"})]
        troubles += [(302, {"Location": "/login"}), (400, {}), (503, {"Retry-After": "9" * 50 + "x"})]
        self.hook.trouble = dice.choice(troubles)
        self._new(dice, number)
        time.sleep(0.4)
        self.hook.trouble = None

    def _killed(self, dice: random.Random, number: int) -> None:
        self.kills += 1
        self._new(dice, number)
        time.sleep(dice.uniform(0, 0.3))
        self.process.send_signal(dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        self.process.wait(60)
        self._new(dice, 9_000_000 + number)
        self.start()

    def _camera_seen(self, dice: random.Random, number: int) -> None:
        self._camera(dice)
