"""Puts every question of a dataset to a server under every method; what is on file is not asked again.

A few pictures are worked on at a time, each by one thread that asks its questions in turn, so the server may
batch; latencies of such a run mean little and are measured apart (`parallel=1`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from secondglance.batch.progress import progress_bar
from secondglance_eval.asking.asker import Asker
from secondglance_eval.asking.methods import Method
from secondglance_eval.asking.photo import Photo
from secondglance_eval.asking.prefetch import Group, pictures_ahead, with_pictures
from secondglance_eval.asking.records import Record, RecordWriter
from secondglance_eval.datasets.example import Dataset, Example

_SECONDS_BETWEEN_LINES = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """`parallel`: pictures asked about at a time; `workers`: processes that render pictures ahead.

    `renders_first`: all pictures before the first question, so that rendering disturbs no latency.
    """

    parallel: int = 4
    workers: int = 2
    renders_first: bool = False


Task = tuple[Method, Example]


def run(
    dataset: Dataset,
    methods: Sequence[Method],
    asker: Asker,
    writer: RecordWriter,
    *,
    pace: Pace | None = None,
    what: str = "pictures",
) -> None:
    """Append the records that are missing. Raises EdgeError where a question fails: run again to go on."""
    pace = pace or Pace()
    missing = [
        (group, tasks)
        for number, group in enumerate(dataset)
        if (tasks := tasks_of(group, number, methods, writer.done, pictures=len(dataset)))
    ]
    if not missing:
        return
    tasks_by_group = {group[0].image_id: tasks for group, tasks in missing}
    with (
        progress_bar(len(missing), name=what, line_every_s=_SECONDS_BETWEEN_LINES) as tell,
        pictures_ahead(pace.workers) as pool,
    ):
        pictures: Iterable[tuple[Group, bytes]] = with_pictures(
            (group for group, _ in missing), pool, ahead=pace.workers + pace.parallel
        )
        if pace.renders_first:
            pictures = list(pictures)
        answered = _ask_in_parallel(pictures, tasks_by_group, asker, pace.parallel)
        for done, records in enumerate(answered, start=1):
            writer.add(*records)
            tell(done, what)


def tasks_of(
    group: Group, number: int, methods: Sequence[Method], done: Collection[tuple[str, str]], *, pictures: int
) -> list[Task]:
    """Return what is still to be asked about the picture of that number, of `pictures`, method by method."""
    return [
        (method, example)
        for method in methods
        for example in group
        if method.applies_to(example, number, pictures) and (example.id, method.name) not in done
    ]


def _ask_in_parallel(
    pictures: Iterable[tuple[Group, bytes]], tasks: dict[str, list[Task]], asker: Asker, parallel: int
) -> Iterator[list[Record]]:
    """The records of one picture after another, as they come; one more picture waits than is worked on."""
    with ThreadPoolExecutor(parallel) as threads:
        running: set[Future[list[Record]]] = set()
        try:
            for group, data in pictures:
                running.add(threads.submit(_ask_about, data, tasks[group[0].image_id], asker))
                if len(running) > parallel:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
            yield from (future.result() for future in running)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _ask_about(data: bytes, tasks: Sequence[Task], asker: Asker) -> list[Record]:
    example = tasks[0][1]
    photo = Photo(data, (example.width, example.height), asker.model)
    return [method.ask(asker, photo, example) for method, example in tasks]
