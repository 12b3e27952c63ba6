"""Load a tiny random model of every image-text-to-text type and write what was found.

python -m tests.engine.types.survey [TYPE ...]   # all types, or these only; the others keep their row
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
import tempfile
from dataclasses import asdict

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from secondglance_server.engine.adapters import discover
from secondglance_server.engine.generic.registry import REGISTRY, ModelType, model_types
from secondglance_server.engine.generic.snapshot import SnapshotEngine
from secondglance_server.engine.loader import ModelLoadError, load_engine
from secondglance_server.engine.prefix import PrefixEngine
from tests.engine.types import all_rows, with_torchvision
from tests.engine.types.row import build
from tests.engine.types.untried import why_untried


def _needs(model_type: str) -> str:
    return " (with torchvision)" if model_type in with_torchvision.TYPES else ""


def survey(model_type: str) -> ModelType:
    """Return what a random model of the type can do."""
    families = discover()
    rows = all_rows()
    if model_type not in rows and model_type not in families:
        return ModelType(model_type, "no", why_untried(model_type), "", shares_prefix=False)
    how = "family file" if model_type in families else "generic"
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        torch.manual_seed(0)
        if how == "family file":
            importlib.import_module(f"tests.engine.tiny.{model_type}").build(directory)
        else:
            build(model_type, rows[model_type], directory)
        try:
            engine = load_engine(str(directory), device="cpu", dtype="float32")
        except ModelLoadError as exc:
            reason = str(exc.__cause__ or exc)
            return ModelType(model_type, "no", reason + _needs(model_type), "", shares_prefix=False)
    why = engine.info.answers_only
    if why is not None:
        return ModelType(model_type, "answers only", why, how, shares_prefix=False)
    reason = "a file of its own"
    for note in engine.info.notes:
        reason = (
            note.partition(": ")[2].removesuffix(" (probed)") if note.startswith("picture's grid") else reason
        )
    reason += _needs(model_type)
    is_shared = isinstance(engine, PrefixEngine | SnapshotEngine)
    return ModelType(model_type, "yes", reason, how, shares_prefix=is_shared)


def main(chosen: list[str]) -> None:
    torch.set_num_threads(1)
    known = {row.type: row for row in model_types()} if chosen else {}
    for model_type in sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
        if model_type in chosen or model_type not in known:
            known[model_type] = survey(model_type)
            print(model_type, known[model_type].verdict, known[model_type].reason, file=sys.stderr)
    rows = [asdict(known[name]) for name in sorted(known)]
    REGISTRY.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
