"""What the joint stage is trained on: a scene's global view, two crops as the product cuts them, questions.

Shards are .npz files: the tower's fields with a leading [scenes, 3] (global, first crop, second crop) and, as
JSON, for each scene its questions, the sign each crop was cut for, and how much of every sign each crop
shows.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from scenes import generator
from training.pictures.views import SIDE, Labels, crop_view, global_view, product_window, save_shard

MISS_RATE = 0.12  # crops that show another place: the answer has to stay unsure


def pair_example(seed: int) -> tuple[list[tuple[Image.Image, Labels]], dict[str, Any]]:
    """Views (global, crop, crop) and the record of scene number `seed`."""
    rng = np.random.default_rng([seed, 29])
    scene = generator.make_scene(2_000_000 + seed, split="train")
    targets = [int(i) for i in rng.permutation(len(scene.signs))[:2]]
    views = [global_view(rng, scene)]
    crops = []
    for target in targets:
        jitter = 6.0 if rng.random() < MISS_RATE else 0.6
        box = product_window(rng, scene, scene.signs[target], jitter_cells=jitter)
        views.append(crop_view(rng, scene, box))
        crops.append(
            {"target": target, "shares": [round(generator.shown_share(s.box, box), 3) for s in scene.signs]}
        )
    record = {
        "seed": scene.seed,
        "questions": [[q.kind, q.text, q.answer, q.sign] for q in scene.questions],
        "heights": [round(scene.text_height_in_view(sign), 2) for sign in scene.signs],
        "crops": crops,
    }
    return views, record


def write_shard(path: pathlib.Path, seeds: range) -> None:
    """Renders one scene for each seed; written whole or not at all."""
    images = np.zeros((len(seeds), 3, SIDE, SIDE, 3), np.uint8)
    rows: list[list[Labels]] = []
    records = []
    for index, seed in enumerate(seeds):
        views, record = pair_example(seed)
        for place, (image, _labels) in enumerate(views):
            images[index, place] = np.asarray(image)
        rows.append([labels for _image, labels in views])
        records.append(record)
    save_shard(path, images, rows, records=np.array(json.dumps(records)))
