"""The scenes that this project draws: only a checkout of it has their code, and pip their fonts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from secondglance_eval.errors import MissingPieceError

if TYPE_CHECKING:
    from secondglance_eval.datasets.held_out import HeldOutScenes

_ELSEWHERE = (
    "change to a checkout of Second Glance and run this there, or ask about your own pictures with"
    " --dataset jsonl:FILE"
)


def held_out_scenes(scenes: int, first_seed: int) -> HeldOutScenes:
    """Return that many scenes from `first_seed`. Raises MissingPieceError without their code or fonts."""
    _find_code()
    from scenes.fonts import MissingFontsError, font_files

    try:
        font_files("test")
    except MissingFontsError as exc:
        raise MissingPieceError(f"the fonts of the scenes are missing: {exc}") from exc
    from secondglance_eval.datasets.held_out import HeldOutScenes

    return HeldOutScenes(scenes, first_seed)


def _find_code() -> None:
    """Put the checkout that this runs from, or in, on the path; the processes that render inherit it."""
    for root in (Path(__file__).parents[3], Path.cwd()):
        if (root / "scenes" / "generator.py").is_file() and (root / "evaluation").is_dir():
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
            return
    raise MissingPieceError(f"the data set scenes is drawn by code that is not installed: {_ELSEWHERE}")
