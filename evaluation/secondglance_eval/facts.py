"""What a run was made on and with: kept beside its records, and the reason why records are not mixed."""

from __future__ import annotations

import datetime
import hashlib
import importlib.resources
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from secondglance_eval.datasets.example import Dataset
from secondglance_eval.errors import OtherRunError, RecordsError
from secondglance_protocol.wire import ModelResponse

FACTS_FILE = "run.json"


class Facts(BaseModel):
    """What a run was made on and with.

    `weights` is the SHA-256 over a local model's files, None where the server is not ours. `left_out` names
    the data set's pictures that no result is taken from, because encodings were chosen on them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    pictures: int
    model: ModelResponse
    weights: str | None
    date: str
    machine: str
    cores: int
    commit: str | None
    left_out: tuple[str, ...] = ()

    @classmethod
    def gather(
        cls, dataset: Dataset, model: ModelResponse, *, model_files: Path | None, left_out: Iterable[str] = ()
    ) -> Self:
        """Return the facts of a run that starts now."""
        return cls(
            dataset=dataset.name,
            pictures=len(dataset),
            model=model,
            weights=digest_of(model_files) if model_files else None,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=_processor(),
            cores=os.cpu_count() or 1,
            commit=_commit(),
            left_out=tuple(left_out),
        )

    def keep_in(self, folder: Path) -> None:
        """Write the facts. Raises OtherRunError if the folder's records cannot be gone on with."""
        path = folder / FACTS_FILE
        if path.exists():
            there = type(self).read(folder)
            for what in ("dataset", "model", "weights"):
                if getattr(there, what) != getattr(self, what):
                    raise OtherRunError(
                        f"{folder} holds records of another {what}: delete it or choose another --out"
                    )
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return what `keep_in` wrote. Raises RecordsError."""
        path = folder / FACTS_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as exc:
            raise RecordsError(f"{folder} holds no run: {path}: {exc.strerror or exc}") from exc
        except ValidationError as exc:
            raise RecordsError(f"{path}: {exc}") from exc


def files_of_model(name: str) -> Path | None:
    """Return where a model that a child server loads has its files; None for a hub's."""
    if name in ("embedded", "reader"):
        return Path(str(importlib.resources.files(f"secondglance_server.engine.{name}"))) / "weights"
    return Path(name) if Path(name).is_dir() else None


def digest_of(folder: Path) -> str:
    """Return the SHA-256 over a model's weights, configuration and gate."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    command: list[Any] = ["git", "-C", Path(__file__).parent, "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
