"""From what one question costs to fleets of any size: multiplication, and what is full first."""

from __future__ import annotations

from dataclasses import dataclass

from secondglance_eval.markdown import markdown_table
from secondglance_server.settings import ServerSettings

SESSION_TTL_S = ServerSettings().session_ttl_s
RATE = 10.0  # questions a second that one server answers, for the arithmetic
EDGE_RATE = 0.1  # questions a second of one edge
FLEETS = (2, 10, 100, 1000)
MAX_CLIENTS = 10_000  # Redis's own default


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one question with both stages; calls of ledgers lie on one node of a cluster."""

    redis_calls: float
    redis_ledger_calls: float
    redis_cpu_ms: float
    redis_received_bytes: float
    redis_sent_bytes: float
    redis_bytes_held: float
    nginx_cpu_ms: float
    server_cpu_ms: float
    uplink_bytes: float
    downlink_bytes: float


@dataclass(frozen=True, slots=True)
class Idle:
    """What one server costs Redis that is asked nothing, and how many connections it holds."""

    redis_calls_per_s: float
    redis_connections: float


def cost_table(cost: Cost, idle: Idle) -> str:
    rows = [
        ("Redis: calls from servers", f"{cost.redis_calls:.1f}"),
        ("of these on the node of the ledgers", f"{cost.redis_ledger_calls:.1f}"),
        ("Redis: processor time", f"{cost.redis_cpu_ms:.2f} ms"),
        (
            "Redis: received and sent",
            f"{cost.redis_received_bytes:,.0f} and {cost.redis_sent_bytes:,.0f} bytes",
        ),
        (f"Redis: memory for SESSION_TTL_S ({SESSION_TTL_S:.0f} s)", f"{cost.redis_bytes_held:,.0f} bytes"),
        ("nginx: processor time", f"{cost.nginx_cpu_ms:.2f} ms"),
        ("server: processor time, embedded model", f"{cost.server_cpu_ms:.0f} ms"),
        ("edge: sent and received", f"{cost.uplink_bytes:,.0f} and {cost.downlink_bytes:,.0f} bytes"),
        ("each idle server: calls to Redis a second", f"{idle.redis_calls_per_s:.1f}"),
        ("each server: connections to Redis", f"{idle.redis_connections:.1f}"),
    ]
    return markdown_table(("of one question with both stages", "measured"), rows)


def fleet_table(cost: Cost, idle: Idle) -> str:
    """Return what fleets of several sizes ask of their parts, by multiplication."""
    rows = []
    for servers in FLEETS:
        rate = servers * RATE
        rows.append(
            (
                f"{servers:,}",
                f"{rate / EDGE_RATE:,.0f}",
                f"{rate:,.0f}",
                f"{rate * cost.redis_calls + servers * idle.redis_calls_per_s:,.0f}",
                f"{redis_cores(cost, idle, servers):.2f}",
                f"{rate * SESSION_TTL_S * cost.redis_bytes_held / 1e9:.2f} GB",
                f"{8e-6 * rate * (cost.redis_received_bytes + cost.redis_sent_bytes):,.0f} Mbit/s",
                f"{rate * cost.nginx_cpu_ms / 1000:.2f}",
                f"{8e-6 * rate * (cost.uplink_bytes + cost.downlink_bytes):,.0f} Mbit/s",
            )
        )
    head = (
        "servers",
        "edges",
        "questions/s",
        "Redis calls/s",
        "Redis cores",
        "Redis memory",
        "to and from Redis",
        "nginx cores",
        "to and from edges",
    )
    return markdown_table(head, rows)


def redis_cores(cost: Cost, idle: Idle, servers: float) -> float:
    """Return the cores that calls take; an idle server's are as dear as the others."""
    worth_questions = RATE + idle.redis_calls_per_s / cost.redis_calls
    return servers * worth_questions * cost.redis_cpu_ms / 1000


def limits(cost: Cost, idle: Idle) -> dict[str, float]:
    """Return how many servers fill each part, the first one first."""
    found = {
        "one core of Redis, which runs scripts on one": 1 / redis_cores(cost, idle, 1),
        f"Redis's connections (`maxclients` {MAX_CLIENTS:,})": MAX_CLIENTS / idle.redis_connections,
        "16 cores of nginx": 16 / (RATE * cost.nginx_cpu_ms / 1000),
        "64 GB of Redis": 64e9 / (RATE * SESSION_TTL_S * cost.redis_bytes_held),
        "10 Gbit/s between edges and nginx": 10e9 / (8 * RATE * (cost.uplink_bytes + cost.downlink_bytes)),
    }
    return dict(sorted(found.items(), key=lambda limit: limit[1]))


def limits_table(cost: Cost, idle: Idle) -> str:
    rows = [(name, f"{servers:,.0f}") for name, servers in limits(cost, idle).items()]
    return markdown_table(("what is full first", "at so many servers"), rows)
