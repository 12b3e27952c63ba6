"""`make evaluate`: the pair beside every baseline, and beside what was sent before, on two sets of pictures.

    python -m benchmarks.instruments.evaluate [--model embedded] [--scenes 1000] [--out DIR] [--docs docs]

Drawn scenes and photo textures, over HTTP; what the folder holds already is not asked again. "Before" is what
edges sent until models named their recipes: WebP 40 and a region in WebP 85, the same for every model, in
longer requests. It is asked of the same server, the same questions, in the same run. Prints what came of both
sets and, last, one JSON object: the drawn scenes' headline, the photo textures' with `photo_` before each
name, and for both the bytes of a question and their ratio to those before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from secondglance_eval.asking.asker import Asker
from secondglance_eval.asking.methods import recipes_method
from secondglance_eval.asking.records import RecordWriter, read_records
from secondglance_eval.asking.run import Pace, run
from secondglance_eval.campaign import RECORDS_FILE, left_out, measure
from secondglance_eval.cli import RAISED_LIMITS
from secondglance_eval.datasets.named import SCENES, TEXTURES, open_with_choice
from secondglance_eval.datasets.seeds import TEST_SEED
from secondglance_eval.errors import MissingPieceError
from secondglance_eval.facts import Facts, files_of_model
from secondglance_eval.judging.gates import GateStatistic
from secondglance_eval.judging.intervals import Estimate, Resamples
from secondglance_eval.judging.recipe_choice import EDGES_OWN
from secondglance_eval.judging.study import Study
from secondglance_eval.markdown import markdown_table
from secondglance_eval.report.write import write_report
from secondglance_server.testing import serving

BEFORE = "before"  # the name of its records
# Bytes that HTTP put around a picture with its question and around a region, more than it does now. Counted
# by lab/relay for questions of 27 and 67 characters about one photo: 744 and 301 at commit 7b805bb for the
# shorter one, 231 and 135 now; the longer one took 40 more in both.
FRAMING_BEFORE = (513, 166)
_KINDS = {SCENES: "", TEXTURES: "photo_"}  # and what the figures' names begin with
_PAGES = {SCENES: "results.md", TEXTURES: "results-photo-textures.md"}


def measure_set(kind: str, address: str, model: str, scenes: int, out: Path, choice_scenes: int) -> None:
    """Put every question of a set to the server under every method, and as before."""
    data, choice_set = open_with_choice(
        kind, pictures=scenes, choice_pictures=choice_scenes, first_seed=TEST_SEED
    )
    pace = Pace(parallel=2, workers=1)
    with Asker(address, data.score) as asker:
        files = files_of_model(model)
        facts = Facts.gather(data, asker.model, model_files=files, left_out=left_out(choice_set))
        facts.keep_in(out)
        with RecordWriter(out / RECORDS_FILE) as writer:
            run(
                data, [recipes_method(BEFORE, EDGES_OWN)], asker, writer, pace=pace, what=f"{kind}, as before"
            )
        measure(data, choice_set, asker, out, pace=pace)


def beside_before(out: Path) -> dict[str, Estimate]:
    """Return the pair's bytes a question, those before, their ratio and the points of right answers lost."""
    study = Study(read_records(out / RECORDS_FILE))
    gate = Facts.read(out).model.gate
    pair = study.pair(GateStatistic(gate.metric, gate.aggregate), gate.threshold)
    before = study.measured(BEFORE)
    first, second = FRAMING_BEFORE
    sent_before = before.uplink + first + np.where(before.second > 0, second, 0)
    resamples = Resamples(study.image_ids)
    return {
        "bytes_per_question": resamples.mean(pair.uplink),
        "bytes_per_question_before": resamples.mean(sent_before),
        "bytes_ratio": resamples.ratio(pair.uplink, sent_before),
        "points_lost": resamples.difference(before.score, pair.score).times(100),
        "accuracy": resamples.mean(pair.score),
    }


def figures(kind: str, folder: Path, docs: Path | None) -> dict[str, Any]:
    """Return a set's headline and what it sends beside before; write its report."""
    headline = write_report(folder, markdown=docs / _PAGES[kind] if docs else None)
    found = beside_before(folder)
    shown = {name: round(value.value, 4) for name, value in found.items()}
    for name in ("bytes_ratio", "points_lost"):
        shown[f"{name}_interval"] = [round(found[name].low, 4), round(found[name].high, 4)]
    questions = len(Study(read_records(folder / RECORDS_FILE)).always)
    return {
        f"{_KINDS[kind]}{name}": value
        for name, value in ({"questions": questions} | headline | shown).items()
    }


def table(folders: dict[str, Path]) -> str:
    """Return both sets beside what was sent before."""
    rows = []
    for kind, folder in folders.items():
        found = beside_before(folder)
        assert not isnan(found["bytes_ratio"].value), "both were measured on the same questions"
        rows.append(
            (
                kind,
                f"{found['accuracy'].times(100):.1f}",
                f"{found['points_lost']:.1f}",
                f"{found['bytes_per_question']:,.0f}",
                f"{found['bytes_per_question_before']:,.0f}",
                f"{found['bytes_ratio']:.3f}",
            )
        )
    return markdown_table(("", "right, %", "points lost", "bytes", "bytes before", "ratio"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--scenes", type=int, default=1000, help="of each set")
    parser.add_argument("--choice-scenes", type=int, default=40, help="that encodings are chosen on")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"))
    parser.add_argument("--docs", type=Path, help="write the pages of results there")
    options = parser.parse_args()
    folders = {kind: options.out / kind for kind in _KINDS}
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}
    with serving(
        "--model", options.model, environment=threads | RAISED_LIMITS, ready_timeout_s=600
    ) as address:
        for kind, folder in list(folders.items()):
            try:
                measure_set(kind, address, options.model, options.scenes, folder, options.choice_scenes)
            except MissingPieceError as exc:
                print(f"no figures for {kind}: {exc}", file=sys.stderr)
                del folders[kind]
    found: dict[str, Any] = {"model": options.model}
    for kind, folder in folders.items():
        found |= figures(kind, folder, options.docs)
    print(table(folders))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
