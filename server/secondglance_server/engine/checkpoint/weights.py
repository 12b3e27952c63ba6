"""The files with a model's weights: which they are, whether they are whole, and how much memory they take.

Only headers are read. Weights are safetensors; pickled ones are not taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from secondglance_server.engine.protocol import ModelLoadError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_GIT_LFS = b"version https://git-lfs"
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_OTHERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}  # everything else: a byte


@dataclass(frozen=True, slots=True)
class Weights:
    """Sizes from the files' headers: elements by their stored type, in safetensors' names."""

    elements: Mapping[str, int]

    def bytes_as(self, dtype: torch.dtype, *, is_quantized: bool = False) -> int:
        """Return what they take on a device: floats as `dtype`; quantised ones as they are stored."""
        width = 0 if is_quantized else dtype.itemsize
        return sum(
            count * (width or _FLOATS[name] if name in _FLOATS else _OTHERS.get(name, 1))
            for name, count in self.elements.items()
        )


def refuse_broken_settings(directory: Path) -> None:
    """Raise ModelLoadError for a directory without config.json, and for files of JSON that cannot be read."""
    if not (directory / "config.json").is_file():
        raise ModelLoadError("it has no config.json: give the directory that save_pretrained wrote")
    for path in sorted(directory.glob("*.json")):
        try:
            json.loads(path.read_bytes() or b"{}")
        except ValueError as exc:
            raise ModelLoadError(f"{path.name} is broken ({exc}): download the model again") from exc


def weight_files(directory: Path) -> list[str]:
    """Return the names of the files with weights, as the index names them. Raises ModelLoadError."""
    index = directory / INDEX_FILE
    if not index.is_file():
        return [SINGLE_FILE]
    try:
        named = set(json.loads(index.read_bytes())["weight_map"].values())
        if not named or not all(isinstance(name, str) and Path(name).name == name for name in named):
            raise ValueError("it names no files beside it")
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelLoadError(f"{INDEX_FILE} is broken ({exc}): download the model again") from exc
    return sorted(named)


def read_weights(directory: Path) -> Weights:
    """Return what the headers of all files say. Raises ModelLoadError for missing and broken files."""
    elements: dict[str, int] = {}
    for name in weight_files(directory):
        path = directory / name
        if not path.is_file():
            raise ModelLoadError(_missing(directory, name))
        for dtype, count in _header(path).items():
            elements[dtype] = elements.get(dtype, 0) + count
    return Weights(elements)


def _missing(directory: Path, name: str) -> str:
    """Say what is wrong where a file is not there."""
    pickled = sorted(path.name for path in directory.glob("*.bin"))
    if name == SINGLE_FILE and pickled:
        return (
            f"its weights are pickled ({pickled[0]}) and loading them could run code:"
            " take a revision with safetensors, or convert them with save_pretrained"
        )
    return f"the weights are not whole: {name} (safetensors) is missing; download the model again"


def _header(path: Path) -> dict[str, int]:
    """Return the number of elements by stored type."""
    with path.open("rb") as file:
        if file.read(len(_GIT_LFS)) == _GIT_LFS:
            raise ModelLoadError(f"{path.name} is a pointer of Git LFS: run `git lfs pull` beside it")
    found: dict[str, int] = {}
    try:
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # no mapping
                part = tensors.get_slice(name)
                count = 1
                for side in part.get_shape():
                    count *= side
                found[part.get_dtype()] = found.get(part.get_dtype(), 0) + count
    except SafetensorError as exc:
        raise ModelLoadError(f"{path.name} is broken or cut short ({exc}): download it again") from exc
    return found
