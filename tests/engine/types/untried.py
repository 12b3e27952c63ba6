"""Why a type has no row: what is missing to build a random model of it, or that nobody has."""

from __future__ import annotations

from collections import defaultdict

UNTRIED: dict[str, str] = defaultdict(lambda: "not tried: no random model of it is built here")
