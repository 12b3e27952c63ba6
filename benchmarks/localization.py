"""What `calibrate --localization` finds for the embedded model when it comes without its measured setting.

    python -m benchmarks.localization [--pictures 40] [--judged 40]

The model's files are copied without the section `localization` of their `secondglance.json`, so that the
family's defaults hold. The setting that calibration finds is judged on other scenes beside those defaults and
the shipped setting: crops that show the answer, second answers that are right. Prints a table and, last, one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secondglance_eval.asking.layers import answer_from, loaded, look, own_setting, with_boxes
from secondglance_eval.asking.prefetch import pictures_ahead
from secondglance_eval.datasets.held_out import HeldOutScenes
from secondglance_eval.datasets.seeds import CALIBRATION_SEED, TEST_SEED
from secondglance_eval.judging.intervals import Resamples
from secondglance_eval.judging.localization import calibrate_localization
from secondglance_eval.judging.window_choice import HELD, Setting, held_share
from secondglance_server.engine.loader import EMBEDDED_WEIGHTS
from secondglance_server.settings import ServerSettings


def without_setting(target: Path) -> ServerSettings:
    """Return settings that serve the embedded model without its measured localization."""
    for file in EMBEDDED_WEIGHTS.iterdir():
        shutil.copy(file, target)
    path = target / "secondglance.json"
    known = json.loads(path.read_text())
    del known["localization"]
    path.write_text(json.dumps(known))
    return ServerSettings(model=str(target))


def judge(settings: dict[str, Setting], pictures: int, first_seed: int) -> dict[str, dict[str, Any]]:
    """Return for each named setting what it shows on scenes that nothing was chosen on."""
    dataset = HeldOutScenes(pictures, first_seed)
    groups = with_boxes(dataset)
    with loaded(ServerSettings(model="embedded")) as engine, pictures_ahead(1) as pool:
        looked = look(engine, groups, pool)
        regions = {each.example_id: {s: each.region(s) for s in settings.values()} for each in looked}
        scores = answer_from(engine, dataset, groups, regions, pool, max_new_tokens=8)
    resamples = Resamples([each.image_id for each in looked])
    found: dict[str, dict[str, Any]] = {}
    for name, setting in settings.items():
        held = np.array([held_share(each.box, each.region(setting)) >= HELD for each in looked], float)
        figures = {"crops": resamples.mean(held), "answers": resamples.mean(np.array(scores[setting]))}
        shown = {key: round(100 * value.value, 1) for key, value in figures.items()}
        print(
            f"{name}: {setting.name}: " + ", ".join(f"{k} {v.times(100):.1f} %" for k, v in figures.items())
        )
        found[name] = {"setting": setting.name, "questions": len(looked), **shown}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--judged", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the renderer has the other core
    with tempfile.TemporaryDirectory() as folder:
        choice = calibrate_localization(
            HeldOutScenes(arguments.pictures, CALIBRATION_SEED), without_setting(Path(folder)), workers=1
        )
    with loaded(ServerSettings(model="embedded")) as engine:
        shipped = own_setting(engine)
    settings = {"defaults": choice.own, "found": choice.chosen, "shipped": shipped}
    print(json.dumps(judge(settings, arguments.judged, TEST_SEED)))


if __name__ == "__main__":
    main()
