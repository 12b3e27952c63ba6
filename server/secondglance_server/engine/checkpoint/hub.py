"""From a name to a directory: a local one as it is, a hub's repository by way of Hugging Face's cache.

HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT and their kin are huggingface_hub's own and read by it. The
small files come first, so that a model which cannot be served is refused before gigabytes arrive; then the
weights, if disk and memory have room. What was cut off goes on where it stopped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import DryRunError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from secondglance_server.engine.checkpoint.progress import SilentBar, download_bar
from secondglance_server.engine.checkpoint.weights import weight_files
from secondglance_server.engine.protocol import ModelLoadError

_log = logging.getLogger("secondglance_server.engine")

# Everything that is read of a repository, but the weights.
_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]


def find_model(name: str, *, revision: str | None, check: Callable[[Path, int | None], None]) -> Path:
    """Return the directory of the model's files, downloaded where they are not here.

    `check` is called with the directory and, for a download, with its bytes before the weights are fetched;
    it raises what it has against the model. Raises ModelLoadError and what huggingface_hub raises.
    """
    if Path(name).is_dir():
        if revision is not None:
            raise ModelLoadError(f"it is a directory, which has no revision {revision!r}: leave it out")
        check(Path(name), None)
        return Path(name)
    _refuse_paths(name)
    directory = Path(
        snapshot_download(name, revision=revision, allow_patterns=_SMALL_FILES, tqdm_class=SilentBar)
    )
    check(directory, None)
    weights = weight_files(directory)
    total, missing = _sizes(name, revision, weights)
    if missing:
        check(directory, total)
        _refuse_full_disk(missing)
        _log.info("model downloading", extra={"model": name, "percent": 0, "bytes": missing})
    bar = download_bar("model downloading", missing, model=name)
    return Path(snapshot_download(name, revision=revision, allow_patterns=weights, tqdm_class=bar))


def _refuse_paths(name: str) -> None:
    """Raise ModelLoadError for what looks like a path: nobody wants it looked up on a hub."""
    if name.startswith(("/", ".", "~")) or "\\" in name:
        raise ModelLoadError("there is no such directory: check the path")
    try:
        validate_repo_id(name)
    except HFValidationError as exc:
        raise ModelLoadError("it is neither a directory here nor a hub id such as owner/name") from exc


def _sizes(name: str, revision: str | None, files: list[str]) -> tuple[int, int]:
    """Return the bytes of the weights and of those to download; zeros where the hub does not say."""
    try:
        plan = snapshot_download(
            name, revision=revision, allow_patterns=files, dry_run=True, tqdm_class=SilentBar
        )
    except DryRunError:  # offline: the cache will do, or the download says what is missing
        return 0, 0
    if not plan:
        raise ModelLoadError(
            f"it has no {files[0]}: take a revision with safetensors weights in transformers' layout"
        )
    total = sum(file.file_size or 0 for file in plan)
    return total, sum(file.file_size or 0 for file in plan if file.will_download)


def _refuse_full_disk(missing: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < missing:
        raise ModelLoadError(
            f"its download of {gigabytes(missing)} does not fit the disk of {cache}, which has"
            f" {gigabytes(free)} free: free some space, or set HF_HOME to another disk"
        )


def gigabytes(count: float) -> str:
    """Return bytes as people read them: 1.5 GB, 12 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
