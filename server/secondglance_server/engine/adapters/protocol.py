"""What the engine asks of a model family; everything that differs between families is behind this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secondglance_server.engine.protocol import EncoderBudget, GridBox, LocalizationDefaults

Pixels = Mapping[
    str, Tensor
]  # what a family's image processor returns for one picture, by the model's argument names


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """How a picture of some size lies in the prompt.

    `text`: what replaces the chat template's placeholder, with the image token written once. `run`: how often
    the model wants that token there. `rows` x `cols` of the run, row by row from `grid_start`, are the
    picture's grid. `content`: see `AttentionMap`.

    Where other tokens stand between the image's (row breaks, tiles), `text` holds the image token once for
    each stretch, and `stretches` says how long each is (their sum is `run`). Where the grid's cells do not
    follow each other in the run, `cells` names them row by row. `tail`: tokens behind the last of
    the image's that belong to the prefix as well.
    """

    text: str
    run: int
    rows: int
    cols: int
    grid_start: int = 0
    content: GridBox = (0.0, 0.0, 1.0, 1.0)
    stretches: tuple[int, ...] = ()  # empty: one of `run`
    cells: tuple[int, ...] = ()  # empty: those from `grid_start` on
    tail: int = 0

    def cells_of_run(self) -> Sequence[int]:
        """Return which image tokens are the grid's cells, row by row."""
        return self.cells or range(self.grid_start, self.grid_start + self.rows * self.cols)


@dataclass(frozen=True, slots=True, eq=False)
class VisualFeatures:
    """One picture for the decoder: `tokens` [run, width]; `deep`: the same shape for each decoder layer
    that adds more; `texts`: see `AttentionMap`."""

    tokens: Tensor
    deep: tuple[Tensor, ...] = ()
    texts: tuple[GridBox, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Tokens to run on top of a cache. B rows of S tokens; the cache holds P before them.

    `embeddings` [B, S, width], image features in place; `is_image` bool [B, S], None where no image token is
    among them; `features` of the images, row by row; `visible` bool [B, P + S], False where a row is padded,
    None where none is; `positions` [axes, B, S]; `ids` [B, S], None while steps are recorded.
    """

    embeddings: Tensor
    positions: Tensor
    visible: Tensor | None = None
    is_image: Tensor | None = None
    features: Sequence[VisualFeatures] = ()
    ids: Tensor | None = None


class Adapter(Protocol):
    """One loaded model of one family."""

    model: Any
    tokenizer: Any
    chat_template: str
    image_token_id: int
    n_layers: int
    end_ids: frozenset[int]
    layers: tuple[int, ...]  # whose attention is read
    localization: LocalizationDefaults
    image: EncoderBudget  # the encoder's useful resolution for the global image
    patch: EncoderBudget
    off_domain_ids: frozenset[int]  # an answer that starts with one says: not a question for this model

    @property
    def can_pad(self) -> bool:
        """Whether rows of a batch may be padded between prefix and suffix."""
        ...

    @property
    def is_recordable(self) -> bool:
        """Whether a row in four dimensions is all the mask that a single token needs."""
        ...

    @property
    def placeholder(self) -> str:
        """What the chat template writes for an image."""
        ...

    def layout(self, width: int, height: int) -> ImageLayout:
        """How a picture of that size is laid out; no pixels needed."""
        ...

    def pixels(self, rgb: NDArray[np.uint8]) -> Pixels:
        """The model's view of one picture, on the host."""
        ...

    def encode(self, pictures: Sequence[Pixels]) -> list[VisualFeatures]:
        """Runs the vision encoder on the device, all pictures in one batch."""
        ...

    def positions(self, ids: Sequence[int], layouts: Sequence[ImageLayout]) -> Tensor:
        """Rotary positions [axes, tokens] of a whole prompt, on the host."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings; image tokens get any value."""
        ...

    def forward(self, chunk: Chunk, cache: Any) -> Tensor:
        """Extends the cache by the chunk; returns the last token's logits [B, vocabulary]."""
        ...
