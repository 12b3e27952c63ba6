"""The scenes that this project draws: only a checkout of it has their code, and pip their fonts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from secondglance_eval.errors import MissingPieceError

if TYPE_CHECKING:
    from secondglance_eval.datasets.held_out import HeldOutScenes
    from secondglance_eval.datasets.textures import PhotoTextures

_ELSEWHERE = (
    "change to a checkout of Second Glance and run this there, or ask about your own pictures with"
    " --dataset jsonl:FILE"
)


def held_out_scenes(scenes: int, first_seed: int) -> HeldOutScenes:
    """Return that many scenes from `first_seed`. Raises MissingPieceError without their code or fonts."""
    _find_code("scenes")
    from secondglance_eval.datasets.held_out import HeldOutScenes

    return HeldOutScenes(scenes, first_seed)


def photo_textures(scenes: int, first_seed: int) -> PhotoTextures:
    """Return that many pictures. Raises MissingPieceError without their code, fonts or photographs."""
    _find_code("textures")
    from training.reader.drawing.worlds import make_world

    try:
        make_world(first_seed, "test")
    except FileNotFoundError as exc:
        raise MissingPieceError(f"what photo textures are drawn from is missing: {exc}") from exc
    from secondglance_eval.datasets.textures import PhotoTextures

    return PhotoTextures(scenes, first_seed)


def _find_code(dataset: str) -> None:
    """Find what draws pictures: the checkout that this runs from, or in, and its fonts.

    The checkout is put on the path, which the processes that render inherit.
    """
    _put_checkout_on_path(dataset)
    from scenes.fonts import MissingFontsError, font_files

    try:
        font_files("test")
    except MissingFontsError as exc:
        raise MissingPieceError(f"the fonts of the scenes are missing: {exc}") from exc


def _put_checkout_on_path(dataset: str) -> None:
    for root in (Path(__file__).parents[3], Path.cwd()):
        if (root / "scenes" / "generator.py").is_file() and (root / "evaluation").is_dir():
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
            return
    raise MissingPieceError(f"the data set {dataset} is drawn by code that is not installed: {_ELSEWHERE}")
