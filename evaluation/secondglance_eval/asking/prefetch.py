"""Pictures rendered or read in other processes, a few ahead of who asks about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager

from secondglance_eval.datasets.example import Example
from secondglance_server.engine import processes

Group = tuple[Example, ...]


@contextmanager
def pictures_ahead(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield processes that call `Example.image`."""
    with processes.pool(workers) as pool:
        try:
            yield pool
        except BaseException:  # nobody wants the rest: do not render it first
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def with_pictures(
    groups: Iterable[Group], pool: ProcessPoolExecutor, *, ahead: int
) -> Iterator[tuple[Group, bytes]]:
    """Yield each group with its picture's bytes, in order; at most `ahead` pictures wait."""
    waiting: deque[tuple[Group, Future[bytes]]] = deque()
    for group in groups:
        waiting.append((group, pool.submit(group[0].image)))
        if len(waiting) > ahead:
            yield _first(waiting)
    while waiting:
        yield _first(waiting)


def _first(waiting: deque[tuple[Group, Future[bytes]]]) -> tuple[Group, bytes]:
    group, picture = waiting.popleft()
    return group, picture.result()
