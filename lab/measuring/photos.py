"""The originals that are asked about: held-out scenes, one reading question each, kept between runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

_FIRST_SEED = 10_000


def provide(folder: Path, count: int) -> None:
    """Leave `count` JPEGs and their `questions.json` in `folder`, unless they are there already."""
    listing = folder / "questions.json"
    if listing.exists() and len(json.loads(listing.read_text())) == count:
        return
    from scenes.photos import original_of  # draws; the edge's container has no numpy

    folder.mkdir(parents=True, exist_ok=True)
    questions: dict[str, str] = {}
    seeds = itertools.count(_FIRST_SEED)
    while len(questions) < count:
        scene, jpeg = original_of(next(seeds))
        reading = [question.text for question in scene.questions if question.kind == "read"]
        if reading:
            name = f"{scene.seed}.jpg"
            (folder / name).write_bytes(jpeg)
            questions[name] = reading[0]
    listing.write_text(json.dumps(questions, indent=1))
