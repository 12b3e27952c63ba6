"""The lab's parts without a network: counters, the model, tables, and the promise that can be broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.measuring.campaign import Budget
from lab.measuring.cell_figures import is_promise_kept, rows
from lab.measuring.report import layers_table, publish, times_table
from lab.places.counters import Counters, Idle, parsed, read, read_at_rest
from lab.places.namespaces import shaping
from lab.relay.links import LINKS, WIRE, Link

MEGABIT = Link("1 Mbit/s, 100 ms", 9002, 1_000_000, 0.100)


def interface(sysfs: Path, **values: int) -> None:
    folder = sysfs / "eth0" / "statistics"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tx_bytes", "tx_packets", "rx_bytes", "rx_packets"):
        (folder / name).write_text(f"{values.get(name, 0)}\n")


def test_counters_are_read_and_subtracted(tmp_path: Path) -> None:
    interface(tmp_path, tx_bytes=1_000, tx_packets=3, rx_bytes=70)
    assert read("eth0", tmp_path) - Counters(tx_bytes=400, rx_bytes=70) == Counters(
        tx_bytes=600, tx_packets=3
    )
    assert parsed("1000\n3\n70\n0\n") == read("eth0", tmp_path)


def test_an_interface_that_never_rests_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = iter(range(1_000_000))
    monkeypatch.setattr("lab.places.counters.read", lambda *_: Counters(tx_bytes=next(moving)))
    assert read_at_rest("eth0", 0.2, limit_s=0.3, sysfs=tmp_path).tx_bytes > 3


def test_idle_traffic_is_a_rate(tmp_path: Path) -> None:
    interface(tmp_path, tx_bytes=5)
    assert Idle.measured("eth0", 0.05, sysfs=tmp_path) == Idle(0.0, 0.0)


def test_the_model_adds_bytes_round_trips_and_computing() -> None:
    """12,500 bytes are 0.1 s at 1 Mbit/s; a handshake and two requests are three round trips."""
    terms = {"wire_up": 10_000, "wire_down": 2_500, "handshakes": 1, "requests": 2, "compute_s": 0.5}
    assert MEGABIT.predicted_s(**terms) == pytest.approx(0.1 + 0.3 + 0.5)
    assert replace(MEGABIT, jitter_s=0.01).predicted_s(**terms) == pytest.approx(0.93)
    assert WIRE.predicted_s(**terms) == 0.5


def test_a_cell_holds_as_many_answers_as_its_time_but_two_at_least() -> None:
    budget = Budget(photos=12, cell_s=60)
    assert budget.answers(MEGABIT, 5_000) == 12
    assert 2 < budget.answers(MEGABIT, 1_000_000) < 12
    assert budget.answers(LINKS[1], 9_000_000) == 2


def test_links_differ_in_port_and_are_shaped_to_their_rate() -> None:
    assert len({link.port for link in LINKS}) == len(LINKS) == 5
    assert [command[5] for command in shaping("eth0", MEGABIT)] == ["root", "root"]
    assert "1000000bit" in shaping("eth0", MEGABIT)[-1]
    assert not any("tbf" in command for command in shaping("eth0", WIRE))


def sample(http_up: int, wire_up: float, elapsed_s: float) -> dict[str, Any]:
    cost = {"answer": "907", "stage": 1, "requests": 1, "body_up": http_up - 300, "http_up": http_up}
    cost |= {"http_down": 900, "elapsed_s": elapsed_s}
    counts = {"wire_up": wire_up, "wire_down": 1_200, "packets_up": 9, "packets_down": 8}
    return {"photo": "1.jpg", "original_bytes": 10**6, "cost": cost, "handshakes": 0, **counts}


def record(overhead: float, *, link: str = MEGABIT.name) -> dict[str, Any]:
    """A campaign of two cells: one answer on the wire, one on a link."""
    cells = [
        {
            "link": name,
            "method": "original",
            "warmth": "warm",
            "samples": [sample(200_000, 200_000 * (1 + overhead), elapsed_s)],
            "interface": {"tx_bytes": 210_000, "tx_packets": 0, "rx_bytes": 0, "rx_packets": 0},
            "outside": {"tx_bytes": 210_000, "tx_packets": 0, "rx_bytes": 0, "rx_packets": 0},
        }
        for name, elapsed_s in ((WIRE.name, 0.5), (link, 3.0))
    ]
    idle = {"tx_bytes_per_s": 0.0, "rx_bytes_per_s": 0.0}
    offload = {"tso": False, "gso": False, "gro": False}
    return {"place": "a test", "outside": "nobody", "idle": idle, "offload": offload, "cells": cells}


def test_rows_hold_the_layers_apart_and_the_model_uses_the_wires_own_time() -> None:
    wire, slow = rows(record(0.05))
    assert (wire.body, wire.http, wire.wire, wire.outside) == (199_700, 200_000, 210_000, 210_000)
    assert wire.overhead == pytest.approx(0.05)
    link = next(link for link in LINKS if link.name == MEGABIT.name)
    assert slow.predicted_p50_s == pytest.approx(0.5 + 8 * 211_200 / 1e6 + link.mean_rtt_s)
    assert "5.0%" in layers_table([wire, slow])
    assert times_table([wire, slow]).count("\n") == 3


@pytest.mark.parametrize(("overhead", "kept"), [(0.031, True), (0.05, True), (0.02, False), (0.11, False)])
def test_the_promise_can_be_broken(overhead: float, kept: bool) -> None:
    assert is_promise_kept(record(overhead)) is kept


def test_a_broken_promise_is_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(record(0.11), tmp_path, "test") == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept"] is False
    assert (tmp_path / "test.png").stat().st_size > 10_000
    assert (tmp_path / "test.md").read_text().startswith("## A test")
