"""Records whose truth is known: drafts of given doubt, right as often as that doubt says."""

from __future__ import annotations

import numpy as np

from secondglance_eval.asking.methods import ALWAYS
from secondglance_eval.asking.records import Record, StageCost, TokenUncertainty


def records(seed: int, pictures: int, *, noise: float = 0.3) -> list[Record]:
    """Five questions about each picture.

    Doubt falls with how plain the picture and the question are. A draft of doubt d is right with the chance
    exp(-d); the second glance turns 0.9 of all questions right. Shannon entropy is the same doubt seen
    through `noise`, the margin through more of it. First stages take 3,000 bytes on average, second ones
    6,000, both by picture.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for picture in range(pictures):
        plain, size = rng.normal(), rng.uniform(0.5, 1.5)
        for question in range(5):
            doubt = float(np.exp(rng.normal(0.6 * plain - 0.7, 1.0)))
            tokens = tuple(_token(rng, doubt, noise) for _ in range(int(rng.integers(1, 4))))
            draft, final = rng.random() < np.exp(-doubt), rng.random() < 0.9
            rows.append(_record(f"{seed}/{picture}", question, tokens, bool(draft), bool(final), size))
    return rows


def _token(rng: np.random.Generator, doubt: float, noise: float) -> TokenUncertainty:
    return TokenUncertainty(
        min_entropy=doubt,
        shannon=doubt * float(np.exp(rng.normal(0, noise))),
        margin=float(1 - np.exp(-doubt * np.exp(rng.normal(0, 2 * noise)))),
    )


def _record(
    image_id: str, question: int, tokens: tuple[TokenUncertainty, ...], draft: bool, final: bool, size: float
) -> Record:
    return Record(
        example_id=f"{image_id}/{question}",
        method=ALWAYS,
        answer="a" if final else "b",
        score=float(final),
        stage=2,
        asked_again=True,
        draft_answer="a" if draft else "b",
        draft_score=float(draft),
        tokens=tokens,
        roi=None,
        first=StageCost(uplink_bytes=round(3000 * size)),
        second=StageCost(uplink_bytes=round(6000 * size)),
        original_bytes=1_000_000,
        image_id=image_id,
        question="?",
        answers=("a",),
        kind="read",
        width=4000,
        height=3000,
    )
