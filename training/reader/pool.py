"""Real lines for symbolic pictures, from the records that are there."""

from __future__ import annotations

import pathlib

from training.reader.records import read_shard
from training.reader.symbolic import PooledLine, pool_of

_MOST_SHARDS = 120


def load_pool(directory: pathlib.Path) -> list[PooledLine]:
    """Return the lines of all shards in a directory; none where it is missing."""
    views = [
        view
        for path in sorted(directory.glob("*.jsonl.gz"))[:_MOST_SHARDS]
        for record in read_shard(path)
        for view in record.views
    ]
    return pool_of(views)
