"""`python -m lab`: what crosses the wire between an edge and a server, at four layers.

A tool of its own and not a command of `secondglance`: it wants root or a Docker engine, starts servers and
reshapes interfaces, and nobody who asks about a picture needs any of that.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lab.measuring.measure import Warmth
from lab.measuring.methods import Method

cli = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

OUT = Path("out/lab")
Interface = Annotated[str, typer.Argument(metavar="INTERFACE")]
Photos = Annotated[int, typer.Option(min=2, help="How many originals are asked about.")]
CellSeconds = Annotated[float, typer.Option(min=1, help="About how long one cell of the table may take.")]


@cli.callback()
def _lab() -> None:
    """What crosses the wire between an edge and a server, at four layers."""


@cli.command()
def namespaces(photos: Photos = 12, cell_s: CellSeconds = 60.0) -> None:
    """Measure on two network namespaces (root, iproute2), print the tables, leave them in out/lab."""
    from lab.measuring.campaign import Budget, run
    from lab.measuring.photos import provide
    from lab.measuring.report import publish
    from lab.places.namespace_place import namespace_place

    provide(OUT / "images", photos)
    with namespace_place((OUT / "images").absolute(), OUT / "server.log") as place:
        record = run(place, Budget(photos, cell_s), OUT / "images", OUT / "namespaces.jsonl", _say)
    (OUT / "namespaces.jsonl").unlink()
    raise typer.Exit(publish(record, OUT, "namespaces"))


@cli.command()
def containers(photos: Photos = 12, cell_s: CellSeconds = 60.0) -> None:
    """Measure the same on containers (an engine, the images, root on its host)."""
    from lab.measuring.campaign import Budget, run
    from lab.measuring.photos import provide
    from lab.measuring.report import publish
    from lab.places.container_place import container_place

    provide(OUT / "images", photos)
    with container_place(OUT / "images") as place:
        record = run(place, Budget(photos, cell_s), OUT / "images", OUT / "containers.jsonl", _say)
    (OUT / "containers.jsonl").unlink()
    raise typer.Exit(publish(record, OUT, "containers"))


@cli.command()
def demo() -> None:
    """Ask across two containers, print the receipt at four layers, kill the server in the middle."""
    from lab.compose_demo import run

    run(print)


@cli.command()
def report(record: Annotated[Path, typer.Argument(exists=True)]) -> None:
    """Print the tables of an earlier measurement and draw its plot again."""
    from lab.measuring.report import publish

    raise typer.Exit(publish(json.loads(record.read_text()), record.parent, record.stem))


@cli.command()
def relay(
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where every connection goes on to.")],
    listen: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    stall_up_after: Annotated[
        int | None, typer.Option(metavar="BYTES", help="On the first port: so many bytes up, then no more.")
    ] = None,
) -> None:
    """Relay with each link's delay on that link's port, until SIGTERM."""
    import asyncio

    from lab.relay.links import serve

    host, _, port = to.rpartition(":")
    asyncio.run(serve((host, int(port)), listen, stall_up_after=stall_up_after))


@cli.command()
def measure(
    method: Annotated[Method, typer.Argument()],
    warmth: Annotated[Warmth, typer.Argument()],
    url: Annotated[str, typer.Option()],
    photos: Annotated[Path, typer.Option(exists=True, file_okay=False)],
    interface: Annotated[str, typer.Option()],
    answers: Annotated[int, typer.Option(min=1)] = 1_000,
    quiet_s: Annotated[float, typer.Option()] = 0.2,
    idle_tx: Annotated[float, typer.Option(help="Bytes per second to subtract.")] = 0.0,
    idle_rx: Annotated[float, typer.Option(help="Bytes per second to subtract.")] = 0.0,
) -> None:
    """Ask about each photo from here; one JSON object a line."""
    from lab.measuring.measure import Photo, Plan, run
    from lab.places.counters import Idle

    plan = Plan(url, interface, method, warmth, Idle(idle_tx, idle_rx), quiet_s)
    for sample in run(plan, Photo.in_folder(photos)[:answers]):
        print(sample.to_json(), flush=True)


@cli.command()
def idle(interface: Interface, seconds: Annotated[float, typer.Option(min=0.1)] = 5.0) -> None:
    """Print what the interface moves while nobody asks, as JSON."""
    from lab.places.counters import Idle

    print(json.dumps(asdict(Idle.measured(interface, seconds))))


@cli.command()
def offload(interface: Interface, only_show: Annotated[bool, typer.Option("--only-show")] = False) -> None:
    """Turn segmentation offload off; print what is on, as JSON."""
    from lab.places.offload import states, turn_off

    if not only_show:
        turn_off(interface)
    print(json.dumps(states(interface)))


@cli.command()
def wait() -> None:
    """Do nothing until SIGTERM: the edge's container, which others start commands in."""
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the command line; return 1 where a measurement stopped."""
    from lab.errors import LabError

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is taken down
    try:
        cli(prog_name="lab")
    except LabError as exc:
        _say(f"lab: {exc}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
