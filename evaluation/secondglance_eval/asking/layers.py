"""A loaded model asked directly: what each of its layers looks at, and what it answers from a region.

The server's own engine, in this process: attention of inner layers does not travel over the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from secondglance.settings import EdgeSettings
from secondglance_eval.asking.in_process import Edge, answers
from secondglance_eval.asking.prefetch import Group, with_pictures
from secondglance_eval.datasets.example import Dataset, Example
from secondglance_eval.errors import CalibrationError
from secondglance_eval.judging.window_choice import Looked, Setting
from secondglance_protocol.wire import PixelBox
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.prefix import NEUTRAL_PROMPT, PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AttentionMap, Picture
from secondglance_server.settings import ServerSettings

_AHEAD = 2


@contextmanager
def loaded(settings: ServerSettings) -> Iterator[PrefixEngine]:
    """Yield the model's engine as the server loads it. Raises ModelLoadError, CalibrationError."""
    engine = load_engine(
        settings.model,
        revision=settings.revision,
        device=settings.device,
        device_map=settings.device_map,
        dtype=settings.dtype,
        attn=settings.attn,
        decode=settings.decode,
        cache_bytes=settings.prefix_cache_bytes,
    )
    try:
        if not isinstance(engine, PrefixEngine) or engine.info.answers_only:
            reason = engine.info.answers_only or "its engine shows no layers"
            raise CalibrationError(f"{settings.model} never asks for a region: {reason}")
        yield engine
    finally:
        engine.close()


def own_setting(engine: PrefixEngine) -> Setting:
    """Return where the model looks as it comes."""
    return Setting(engine.layers, engine.info.localization)


def with_boxes(groups: Iterable[Group]) -> list[Group]:
    """Return the questions whose answers' boxes are known, picture by picture."""
    kept = (tuple(example for example in group if example.box is not None) for group in groups)
    return [group for group in kept if group]


def look(engine: PrefixEngine, groups: Sequence[Group], pool: ProcessPoolExecutor) -> list[Looked]:
    """Return what every layer looked at, for every question; `pool` renders or reads the pictures."""
    found: list[Looked] = []
    for group, edge in _edges(engine, groups, pool):
        neutral = _maps(engine, edge.whole, [NEUTRAL_PROMPT])[0]
        asked = _maps(engine, edge.whole, [example.question for example in group])
        for example, maps in zip(group, asked, strict=True):
            assert example.box is not None, "others were left out"
            found.append(Looked(example.id, example.image_id, example.box, edge.size, maps, neutral))
    return found


def answer_from(
    engine: PrefixEngine,
    dataset: Dataset,
    groups: Sequence[Group],
    regions: Mapping[str, Mapping[Setting, PixelBox]],
    pool: ProcessPoolExecutor,
    *,
    max_new_tokens: int,
) -> dict[Setting, list[float]]:
    """Return the scores of the second answers under each setting; `regions` are by example and setting."""
    scores: dict[Setting, list[float]] = {}
    for group, edge in _edges(engine, groups, pool):
        for example in group:
            crops = {box: edge.crop(box) for box in set(regions[example.id].values())}
            requests = [_second(edge.whole, example, crop, max_new_tokens) for crop in crops.values()]
            said = dict(zip(crops, answers(engine, requests), strict=True))
            for setting, box in regions[example.id].items():
                scores.setdefault(setting, []).append(dataset.score(said[box].text, example))
    return scores


def _second(whole: Picture, example: Example, crop: Picture, max_new_tokens: int) -> AnswerRequest:
    return AnswerRequest(whole, example.question, crop, max_new_tokens=max_new_tokens)


def _maps(engine: PrefixEngine, whole: Picture, questions: Sequence[str]) -> list[dict[int, AttentionMap]]:
    """Return the maps of each question by layer: the picture's prefix is computed once for all of them."""
    own, found = engine.layers, [dict[int, AttentionMap]() for _ in questions]
    requests = [AnswerRequest(whole, question, max_new_tokens=1) for question in questions]
    try:
        for layer in range(engine.adapter.n_layers):
            engine.layers = (layer,)
            for maps, result in zip(found, answers(engine, requests), strict=True):
                assert result.attention is not None, "stage one brings attention"
                maps[layer] = result.attention
    finally:
        engine.layers = own
    return found


def _edges(
    engine: PrefixEngine, groups: Sequence[Group], pool: ProcessPoolExecutor
) -> Iterator[tuple[Group, Edge]]:
    settings = EdgeSettings()
    for group, data in with_pictures(groups, pool, ahead=_AHEAD):
        yield group, Edge(engine, settings, data)
