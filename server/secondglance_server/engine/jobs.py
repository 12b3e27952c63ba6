"""Work on its way to the device, and what of it can share a batch: policy, no device work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from secondglance_server.engine.adapters.protocol import ImageLayout, Pixels
from secondglance_server.engine.prefix_store import StoredPrefix
from secondglance_server.engine.prompt import Prompt
from secondglance_server.engine.protocol import AnswerRequest, AttentionMap, Picture, Prepared


@dataclass(slots=True, eq=False)
class Job(Prepared):
    """Work, its prompt, its pictures' layouts (global first) and the prefix that is already there.

    `pixels`: of pictures that are prepared, by key. `is_second_try`: a step that it took part in has failed,
    when `n_given_out` of its tokens had been given out.
    """

    prompt: Prompt
    layouts: list[ImageLayout]
    pixels: dict[str, Pixels] = field(default_factory=dict)
    held: StoredPrefix[Any] | None = None
    is_second_try: bool = False
    n_given_out: int = 0

    @property
    def patch(self) -> Picture | None:
        return self.work.patch if isinstance(self.work, AnswerRequest) else None

    @property
    def max_new_tokens(self) -> int:
        return self.work.max_new_tokens if isinstance(self.work, AnswerRequest) else 0

    @property
    def neutral(self) -> AttentionMap | None:
        """The picture's neutral map, if it is there already."""
        return self.held.neutral if self.held else None

    @property
    def past(self) -> int:
        """Tokens that need not run again."""
        return self.prompt.prefix if self.held else 0

    @property
    def is_first_stage(self) -> bool:
        return self.patch is None

    @property
    def pictures_to_encode(self) -> list[Picture]:
        missing = [] if self.held else [self.work.picture]
        return missing + ([self.patch] if self.patch else [])


def like_the_first(
    waiting: Sequence[Job], held: Callable[[Job], StoredPrefix[Any] | None], *, can_pad: bool
) -> list[int]:
    """Indices of the first waiting job and of those that can run in its batch; sets what of each is `held` by
    now.

    A picture that is new in this batch is in it once: the next batch finds its prefix.
    """
    batch: list[int] = []
    new_pictures: set[str] = set()
    first: Job | None = None
    for index, job in enumerate(waiting):
        key = job.work.picture.key
        if key in new_pictures:
            continue
        job.held = held(job)
        if first is not None and not _alike(first, job, can_pad=can_pad):
            continue
        first = first or job
        batch.append(index)
        if job.held is None:
            new_pictures.add(key)
    return batch


def _alike(one: Job, other: Job, *, can_pad: bool) -> bool:
    """Rows of a batch share the cached length, the prefix's length and the stage; suffixes may differ."""
    if one.prompt.prefix == 0 or other.prompt.prefix == 0:
        return False
    if not can_pad and len(one.prompt.ids) != len(other.prompt.ids):
        return False
    same_lengths = one.past == other.past and one.prompt.prefix == other.prompt.prefix
    same_grid = one.prompt.grid == other.prompt.grid
    return same_lengths and same_grid and one.is_first_stage == other.is_first_stage
