"""`make fleet-demo`: a server is lost between the two stages of a question, and another one answers.

Starts redis-server, nginx and two servers with the embedded model on this machine, asks about the photo
through nginx, kills the server of the first stage before the second one is sent, and stops everything again.
Needs redis-server and nginx (Debian: redis-server, nginx-light); no containers.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from examples.local_fleet import Server, running_fleet
from secondglance import EdgeClient, EdgeSettings, Reply
from secondglance.conversation.steps import Send, Step
from secondglance_server.fleet_status import as_table, ask_all

HERE = Path(__file__).parent
PHOTO = HERE / "photo.jpg"
PACKAGES = {"redis-server": "redis-server", "nginx": "nginx-light"}  # Debian's, by program


class Killer:
    """Watches a conversation, and kills the server of its first stage when the second is about to be sent."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._servers = servers
        self.killed: Server | None = None

    def observe(self, step: Step) -> None:
        print(f"  {step}")
        if self.killed is None and isinstance(step, Send) and step.stage == "stage2":
            tag = step.path.split("/inf_")[1].partition("_")[0]
            self.killed = self._servers[tag]
            print(f"  the path is {step.path}: killing server {tag}")
            self.killed.kill()


def main() -> int:
    """Return 0 if the other server gave the right answer, 1 if not, 2 if a program is missing."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        print(f"not installed: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    truth = json.loads((HERE / "photo.json").read_text())
    print("starting redis-server, two servers with the embedded model, and nginx ...", flush=True)
    with running_fleet() as fleet:
        servers = fleet.servers
        show_status(servers)
        print(f"\nasking {fleet.url}: {truth['question']}")
        killer = Killer(servers)
        with EdgeClient(fleet.url, settings=EdgeSettings(trace=True), observe=killer.observe) as client:
            reply = client.ask(PHOTO, truth["question"])
        print(f"the answer of stage {reply.stage}: {reply.answer!r}; on the sign: {truth['answer']!r}\n")
        show_status(servers)
        for tag, server in servers.items():
            for line in server.requests():
                if "stage" in line:
                    print(f"server {tag}: stage {line['stage']} {line['outcome']}, trace {line['trace_id']}")
    if killer.killed is None or not is_as_if_nothing_had_been(reply, truth["answer"]):
        print("\nthis is not what a fleet should have done")
        return 1
    print("\nnothing was lost; everything is stopped again")
    return 0


def show_status(servers: Mapping[str, Server]) -> None:
    print(as_table(ask_all([server.url for server in servers.values()], timeout_s=5)))


def is_as_if_nothing_had_been(reply: Reply, truth: str) -> bool:
    return (reply.answer, reply.stage, reply.degraded) == (truth, 2, None)


if __name__ == "__main__":
    sys.exit(main())
