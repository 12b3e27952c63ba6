"""`secondglance-eval run`: everything that a report needs, in order; each part goes on where it was cut off.

1. The encodings for the equal-bytes baseline, on pictures of their own.
2. Every question under every method, several pictures at a time.
3. The product as it comes, one question at a time, on some pictures: latencies, and that what is computed
   from always-retransmit is what the pair answers.
4. Small pictures of the cases that the report shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from secondglance_eval.asking.asker import Asker
from secondglance_eval.asking.equal_bytes import Chosen, choose, load_choice
from secondglance_eval.asking.methods import pair_method, standard_methods
from secondglance_eval.asking.prefetch import Group, pictures_ahead
from secondglance_eval.asking.records import RecordWriter, read_records
from secondglance_eval.asking.run import Pace, run
from secondglance_eval.datasets.example import Dataset, Example
from secondglance_eval.datasets.files import FileDataset
from secondglance_eval.judging.cases import Case, pick_cases, picture_file, save_pictures
from secondglance_eval.judging.gates import GateStatistic
from secondglance_eval.judging.study import Study
from secondglance_protocol.wire import ModelResponse

RECORDS_FILE = "records.jsonl"
CHOICE_FILE = "encodings.json"
CHOICE_RECORDS_FILE = "encodings.jsonl"
CASES_FOLDER = "cases"

CHECKED_PICTURES = 50


@dataclass(frozen=True, slots=True)
class Every:
    """Each `step`-th picture of a dataset, at most `most` of them."""

    dataset: Dataset
    step: int = 1
    most: int | None = None

    @property
    def name(self) -> str:
        return self.dataset.name

    def __len__(self) -> int:
        pictures = -(-len(self.dataset) // self.step)
        return pictures if self.most is None else min(pictures, self.most)

    def __iter__(self) -> Iterator[Group]:
        for number, group in enumerate(self.dataset):
            if number >= len(self) * self.step:
                return
            if number % self.step == 0:
                yield group

    def score(self, prediction: str, example: Example) -> float:
        return self.dataset.score(prediction, example)


def measure(dataset: Dataset, choice_set: Dataset, asker: Asker, out: Path, *, pace: Pace) -> None:
    """Run all parts that are not done, into the folder `out`. Raises EdgeError, RecordsError."""
    chosen = _chosen(choice_set, asker, out, pace)
    with RecordWriter(out / RECORDS_FILE) as writer:
        run(dataset, [*standard_methods(), *chosen.methods()], asker, writer, pace=pace)
        some = Every(dataset, step=max(1, len(dataset) // CHECKED_PICTURES))
        one_by_one = Pace(parallel=1, workers=pace.workers, renders_first=True)
        run(some, [pair_method()], asker, writer, pace=one_by_one, what="the pair, one by one")
    study = Study(read_records(out / RECORDS_FILE))
    _save_cases(dataset, cases_of(study, asker.model), out / CASES_FOLDER, pace)


def left_out(choice_set: Dataset) -> list[str]:
    """Return the pictures of the user's own files that no result is taken from.

    Scenes are endless: those that encodings are chosen on are missing nowhere.
    """
    if not isinstance(choice_set, FileDataset):
        return []
    return [group[0].image_id for group in choice_set]


def cases_of(study: Study, model: ModelResponse) -> list[Case]:
    """Return the cases that the report shows, under the model's own gate."""
    gate = GateStatistic(model.gate.metric, model.gate.aggregate)
    doubts = study.doubts(gate)
    doubtful = {
        record.example_id
        for record, doubt in zip(study.always, doubts, strict=True)
        if doubt > model.gate.threshold
    }
    return pick_cases(study.always, lambda record: record.example_id in doubtful)


def _chosen(choice_set: Dataset, asker: Asker, out: Path, pace: Pace) -> Chosen:
    path = out / CHOICE_FILE
    if not path.exists():
        choose(choice_set, asker, out / CHOICE_RECORDS_FILE, pace=pace).save(path)
    return load_choice(path)


def _save_cases(dataset: Dataset, cases: Sequence[Case], folder: Path, pace: Pace) -> None:
    missing = {c.record.image_id: c.record for c in cases if not picture_file(c.record, folder).exists()}
    groups = [group for group in dataset if group[0].image_id in missing]
    with pictures_ahead(pace.workers) as pool:
        futures = [(missing[group[0].image_id], pool.submit(group[0].image)) for group in groups]
        for record, future in futures:
            save_pictures(record, future.result(), folder)
