"""The model that reads, on what it never saw: drawn scenes, photo textures, off-domain questions, photos.

In process, through the product's engine, gate and localisation; pictures are what an edge would send. Prints
a table and, as last line, one JSON object. `--photos DIR` takes a folder with `questions.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from benchmarks.instruments.off_domain import QUESTIONS as OFF_DOMAIN
from scenes.generator import make_scene, shown_share
from secondglance.link.encoding_choice import EncodingChoice
from secondglance.link.uplink import Uplink
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.encoding import Recipe
from secondglance.pictures.original import Original
from secondglance.settings import EdgeSettings
from secondglance_eval.asking.in_process import edge_budget, pixels, wanted_region, written
from secondglance_protocol.wire import ImageSize
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    Engine,
    Picture,
)
from secondglance_server.engine.reader.alphabet import folded
from training.reader.asking import Asker
from training.reader.drawing.textures import Box, texture_files
from training.reader.drawing.worlds import VIEW_SIDE_PX, make_world
from training.reader.records import Subject, true_signs
from training.reader.targets import expected_text
from training.reader.tokenizer import CANNOT_TEXT, NOTHING_TEXT

_FIRST_SEED = 5_000_000
TINY_PX = 4


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """`box`: of what is asked about, in the original; `height`: of its smallest text in the first picture."""

    text: str
    answers: tuple[str, ...]
    kind: str
    box: Box | None = None
    height: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture that can be seen at any part, and its questions."""

    size: tuple[int, int]
    look: Subject | Photo
    questions: tuple[Question, ...]


@dataclass(slots=True)
class Row:
    """What came of one question. `holds`: the share of the box in the window; `sent`: bytes of pictures."""

    kind: str
    right: bool
    right_first: bool
    any_word: bool
    gate: float
    last_gate: float
    asked_again: bool
    is_refusal: bool
    holds: float | None
    height: float | None
    is_first: bool  # of its picture: nothing was cached
    sent: int
    stage_ms: list[float] = field(default_factory=list)
    shown: str = ""


def normal(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9 ]+", " ", folded(text).lower()).split())


def is_right(answer: str, answers: Sequence[str]) -> bool:
    return normal(answer).replace(" ", "") in {normal(a).replace(" ", "") for a in answers}


def has_word(answer: str, answers: Sequence[str]) -> bool:
    words = {w for a in answers for w in normal(a).split() if len(w) > 1}
    return bool(words & set(normal(answer).split())) or is_right(answer, answers)


def drawn_scene(seed: int) -> Scene:
    scene = make_scene(seed, split="test")
    subject = Subject(scene)
    questions = []
    for q in scene.questions:
        sign = scene.signs[q.sign] if q.sign is not None else None
        height = scene.text_height_in_view(sign, VIEW_SIDE_PX) if sign else None
        questions.append(Question(q.text, (q.answer,), q.kind, sign.box if sign else None, height))
    return Scene(subject.size, subject, tuple(questions))


def photo_scene(seed: int, count: int, text_px: tuple[float, float] | None = None) -> Scene:
    subject = Subject(make_world(seed, "test", text_px))
    width, height = subject.size
    truth = true_signs(subject.signs, (0.0, 0.0, float(width), float(height)))
    questions = []
    for asked in Asker(np.random.default_rng([seed, 3]), off_domain=0.0).ask(truth, count):
        if asked.expected in ("nothing", "cannot"):
            continue
        box = tall = None
        if asked.sign is not None:
            sign = subject.signs[asked.sign]
            box = sign.box if asked.line is None else sign.lines[asked.line][2]
            lines = sign.lines if asked.line is None else (sign.lines[asked.line],)
            tall = min(b[3] - b[1] for _, _, b in lines) * VIEW_SIDE_PX / max(width, height)
        kind = "read" if asked.expected in ("sign", "line") else asked.kind
        questions.append(Question(asked.text, (expected_text(asked, truth),), kind, box, tall))
    return Scene(subject.size, subject, tuple(questions))


def tiny_scenes(count: int, first_seed: int) -> Iterator[Scene]:
    """Return scenes with questions about text that is too small to be read in the first picture."""
    for seed in range(first_seed, first_seed + count):
        scene = photo_scene(seed, 6, (2.5, TINY_PX))
        asked = tuple(q for q in scene.questions if q.kind == "read" and q.height and q.height < TINY_PX)
        if asked:
            yield Scene(scene.size, scene.look, asked)


class Photo:
    """A real picture, cropped and scaled by the edge's own code."""

    def __init__(self, path: pathlib.Path) -> None:
        self._original = Original(path.read_bytes())
        self.size = self._original.size

    def render(self, box: Box, side: int) -> Image.Image:
        left, top, right, bottom = (round(v) for v in box)
        return self._original.patch((left, top, right, bottom), PixelBudget(side, side))


def photo_folder(directory: pathlib.Path) -> Iterator[Scene]:
    rows = [json.loads(line) for line in (directory / "questions.jsonl").read_text().splitlines()]
    for name in dict.fromkeys(row["image"] for row in rows):
        photo = Photo(directory / name)
        asked = tuple(
            Question(row["question"], tuple(row["answers"]), name) for row in rows if row["image"] == name
        )
        yield Scene(photo.size, photo, asked)


def off_domain_scenes() -> Iterator[Scene]:
    for start in range(0, len(OFF_DOMAIN), 8):
        subject = Subject(make_world(_FIRST_SEED + 700_000 + start, "test"))
        yield Scene(
            subject.size, subject, tuple(Question(q, (), "off") for q in OFF_DOMAIN[start : start + 8])
        )


def ask_all(engine: Engine, name: str, scenes: Iterator[Scene], threshold: float) -> list[Row]:
    rows: list[Row] = []
    encodings = _encodings(engine)
    for number, scene in enumerate(scenes):
        whole = (0.0, 0.0, float(scene.size[0]), float(scene.size[1]))
        budget = edge_budget(engine.info.image).scaled(encodings.for_image()[1])
        # the key of the prefix cache
        seen = _picture(scene, whole, f"{name} {number}", budget, encodings.for_image()[0])
        rows += [_ask(engine, scene, seen, question, threshold, number) for question in scene.questions]
    return rows


def _encodings(engine: Engine) -> EncodingChoice:
    """Return what an edge would follow: the model's recipes, or its own."""
    return EncodingChoice(EdgeSettings.model_construct(), Uplink(), engine.info.recipes)


def _picture(scene: Scene, box: Box, key: str, budget: PixelBudget, recipe: Recipe) -> tuple[Picture, int]:
    """Return what an edge would send of a part of a scene, and its bytes."""
    image = scene.look.render(box, budget.max_width)
    image.thumbnail((budget.max_width, budget.max_height), Image.Resampling.LANCZOS)
    sent = written(image, recipe)
    return Picture(key, pixels(sent)), len(sent)


def _gate(result: AnswerResult) -> float:
    return max((token.min_entropy for token in result.tokens), default=99.0)


def _answer(engine: Engine, request: AnswerRequest) -> tuple[AnswerResult, float]:
    started = time.perf_counter()
    (result,) = engine.answer([request])
    assert isinstance(result, AnswerResult), result
    return result, 1e3 * (time.perf_counter() - started)


def _ask(
    engine: Engine,
    scene: Scene,
    sight: tuple[Picture, int],
    question: Question,
    threshold: float,
    number: int,
) -> Row:
    seen, sent = sight
    first, first_ms = _answer(engine, AnswerRequest(seen, question.text, max_new_tokens=64))
    gate = last_gate = _gate(first)
    final, times, holds = first, [first_ms], None
    size = ImageSize(width=scene.size[0], height=scene.size[1])
    region = wanted_region(engine, first, seen, size) if gate > threshold else None
    if region:
        box = (float(region.left), float(region.top), float(region.right), float(region.bottom))
        holds = None if question.box is None else shown_share(question.box, box)
        encodings = _encodings(engine)
        budget = edge_budget(engine.info.patch).scaled(encodings.patch_scale)
        recipe = next(encodings.for_patch())
        patch, patch_bytes = _picture(scene, box, f"patch {number}", budget, recipe)
        sent += patch_bytes
        final, second_ms = _answer(engine, AnswerRequest(seen, question.text, patch, max_new_tokens=64))
        times.append(second_ms)
        last_gate = _gate(final)
    is_first = question is scene.questions[0]
    return Row(
        question.kind, is_right(final.text, question.answers), is_right(first.text, question.answers),
        has_word(final.text, question.answers), gate, last_gate, region is not None,
        final.text in (CANNOT_TEXT, NOTHING_TEXT), holds, question.height, is_first, sent, times,
        f"{question.text} {question.answers[:1]}: {first.text!r} {gate:.2f}, {final.text!r} {last_gate:.2f}",
    )  # fmt: skip


def auroc(rows: Sequence[Row]) -> float | None:
    """Return the probability that a wrong first answer's gate value is above a right one's."""
    wrong = np.array([r.gate for r in rows if not r.right_first])
    right = np.array([r.gate for r in rows if r.right_first])
    if not len(wrong) or not len(right):
        return None
    above = (wrong[:, None] > right[None]).mean() + 0.5 * (wrong[:, None] == right[None]).mean()
    return round(float(above), 4)


def _share(values: Sequence[bool]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def figures(rows: Sequence[Row], doubt: float) -> dict[str, float | int | None]:
    read = [r for r in rows if r.kind == "read"]
    tiny = [r for r in read if r.height is not None and r.height < TINY_PX]
    wrong = [r.holds > 0.9 for r in rows if not r.right_first and r.holds is not None]
    sure = [r for r in rows if r.last_gate <= doubt]
    return {
        "questions": len(rows),
        "first": _share([r.right_first for r in rows]),
        "pair": _share([r.right for r in rows]),
        "read_first": _share([r.right_first for r in read]),
        "read_pair": _share([r.right for r in read]),
        "read_any_word": _share([r.any_word for r in read]),
        "count": _share([r.right for r in rows if r.kind == "count"]),
        "presence": _share([r.right for r in rows if r.kind == "presence"]),
        "color": _share([r.right for r in rows if r.kind in ("color", "color_of")]),
        "uplink_bytes": round(float(np.mean([r.sent for r in rows])), 1) if rows else None,
        "spoilt": _share([r.right_first and not r.right for r in rows]),  # by the second look
        "asks_again": _share([r.asked_again for r in rows]),
        "auroc": auroc(rows),
        "auroc_read": auroc(read),
        "window_holds": _share(wrong),
        "sure": _share([r.last_gate <= doubt for r in rows]),
        "sure_right": _share([r.right for r in sure]),
        "tiny": len(tiny),
        "tiny_unsure": _share([r.asked_again for r in tiny]),
        "tiny_mended": _share([r.right for r in tiny if not r.right_first]),
        "stage1_ms_p50": _median([r.stage_ms[0] for r in rows if r.is_first]),
        "stage2_ms_p50": _median([r.stage_ms[1] for r in rows if len(r.stage_ms) > 1]),
    }


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 1) if values else None


def photo_seeds(scenes: int) -> range:
    """Return the seeds of so many scenes on photo textures; none where the photographs are not installed."""
    try:
        texture_files("test")
    except FileNotFoundError as exc:
        print(f"no photo_* figures: {exc}", file=sys.stderr)
        return range(0)
    return range(_FIRST_SEED, _FIRST_SEED + scenes)


def photo_rows(engine: Engine, seed: int) -> list[Row]:
    """Ask about one scene on a photo texture."""
    return ask_all(engine, f"photo {seed}", iter([photo_scene(seed, 6)]), engine.info.gate.threshold)


def photo_figures(rows: Sequence[Row], doubt: float) -> dict[str, float | int]:
    """Return the figures on photo textures as `photo_*`."""
    return {f"photo_{name}": value for name, value in figures(rows, doubt).items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reader")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument(
        "--first-seed", type=int, default=_FIRST_SEED, help="another one to choose settings on"
    )
    parser.add_argument("--photos", type=pathlib.Path)
    parser.add_argument(
        "--only", action="append", help="of drawn, photo, tiny, off_domain, real; by default all"
    )
    parser.add_argument("--show", type=int, default=0, help="print so many questions of each set")
    options = parser.parse_args()
    started = time.perf_counter()
    engine = load_engine(options.model)
    load_s = round(time.perf_counter() - started, 1)
    threshold = engine.info.gate.threshold
    report: dict[str, object] = {"model": options.model, "threshold": threshold, "dtype": engine.info.dtype}
    sets = {
        "drawn": (drawn_scene(options.first_seed + i) for i in range(options.scenes)),
        "photo": (photo_scene(options.first_seed + i, 6) for i in range(options.scenes)),
        "tiny": tiny_scenes(options.scenes, options.first_seed),
        "off_domain": off_domain_scenes(),
    }
    if options.photos:
        sets["real"] = photo_folder(options.photos)
    for name, scenes in sets.items():
        if options.only and name not in options.only:
            continue
        rows = ask_all(engine, name, scenes, threshold)
        found = figures(rows, engine.info.gate.doubts_above)
        if name == "off_domain":
            recognised = _share([r.is_refusal and not r.asked_again for r in rows])
            found = {"questions": len(rows), "sure": found["sure"], "recognised": recognised}
        if name == "real":
            found["any_word"] = _share([r.any_word for r in rows])
        report[name] = found
        print(f"{name}:", *(f"{key} {value}" for key, value in found.items()), sep="  ", flush=True)
        for row in rows[: len(rows) if name == "real" else options.show]:
            print("   ", row.shown)
    most_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(report | {"load_s": load_s, "max_rss_mb": most_mb}))


if __name__ == "__main__":
    main()
