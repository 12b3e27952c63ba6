"""What a question costs each part of a fleet, and by arithmetic how far the fleet grows before one is full.

    python -m benchmarks.scaling [--questions 100] [--out FILE] [--docs docs/scaling.md]

Starts two servers with the embedded model, nginx and Redis on this machine (`examples/local_fleet.py`), and
asks questions that all take both stages, each about another picture. Redis's own counters (INFO, MONITOR),
the kernel's processor times and the edge's receipts are read before and after; what an idle fleet costs is
measured first and subtracted. Prints the tables and, last, one line of JSON. The times are this machine's.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from dataclasses import asdict

import redis

from benchmarks.instruments.marked import put_between
from benchmarks.scaling.arithmetic import cost_table, fleet_table, limits, limits_table
from benchmarks.scaling.measure import EDGES, machine, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--docs", type=pathlib.Path)
    arguments = parser.parse_args()
    cost, idle = measure(arguments.questions)
    tables = {
        "costs": cost_table(cost, idle),
        "fleets": fleet_table(cost, idle),
        "limits": limits_table(cost, idle),
    }
    document = {
        "questions": arguments.questions,
        "edges": EDGES,
        "machine": machine(),
        "redis": redis.__version__,
        "cost": asdict(cost),
        "idle": asdict(idle),
        "limits": limits(cost, idle),
    }
    for name, table in tables.items():
        print(table, "\n")
        if arguments.docs:
            put_between(arguments.docs, name, table)
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
