"""What is asked: questions about pictures with their answers, and the metric that goes with a dataset.

Knows nothing of servers, methods or results. Not covered: where examples come from; every dataset is a
module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from secondglance_protocol.wire import PixelBox


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A picture that lies in a file: the plainest value of `Example.image`."""

    path: Path

    def __call__(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class Example:
    """One question about one picture.

    `image_id` names the picture within the dataset; `image` gives its encoded bytes and is called in another
    process, ahead of need, so it must be picklable: a frozen dataclass with `__call__`, not a lambda.
    `box` is where the answer lies, in pixels of the oriented original of `width` x `height`; None where that
    is unknown or everywhere. `text_height_px` is the height of what must be read *in the global view*, None
    where nothing is read or nobody knows.
    """

    id: str
    image_id: str
    question: str
    answers: tuple[str, ...]
    kind: str
    image: Callable[[], bytes]
    width: int
    height: int
    box: PixelBox | None = None
    text_height_px: float | None = None


ScoreRule = Callable[[str, Example], float]
"""From a prediction and its example to how right it is, in [0, 1]."""


class Dataset(Protocol):
    """Examples grouped by picture, so that a picture is rendered or read once, and their metric.

    Iterating is cheap (no picture is read) and gives the same groups in the same order every time; ids are
    unique within the dataset.
    """

    @property
    def name(self) -> str: ...

    def __iter__(self) -> Iterator[tuple[Example, ...]]:
        """All examples of one picture, picture by picture."""
        ...

    def __len__(self) -> int:
        """How many pictures."""
        ...

    def score(self, prediction: str, example: Example) -> float:
        """Return how right a prediction is, in [0, 1]."""
        ...


def exact_match(prediction: str, example: Example) -> float:
    """Return 1 if the prediction is one of the answers, letter case and outer white space aside."""
    said = prediction.strip().casefold()
    return float(any(said == answer.strip().casefold() for answer in example.answers))
