"""Held-out scenes as the photos that an edge would hold."""

from __future__ import annotations

from scenes.generator import Scene, encode_jpeg, make_scene, render


def original_of(seed: int) -> tuple[Scene, bytes]:
    """The held-out scene of that seed and its JPEG."""
    scene = make_scene(seed, split="test")
    return scene, encode_jpeg(render(scene), scene.jpeg_quality)
