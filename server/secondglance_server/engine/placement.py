"""Where and how a model runs: device, precision, attention kernel, decoding; each choice with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from secondglance_server.engine.checkpoint.hub import gigabytes
from secondglance_server.engine.checkpoint.memory import free_bytes
from secondglance_server.engine.protocol import ModelLoadError

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_CPU_CACHE_BYTES = 512 * 1024 * 1024
_ACCELERATOR_CACHE_SHARE = (
    0.5  # of the memory that is free once the model is there; the rest is for activations
)


@dataclass(frozen=True, slots=True)
class Placement:
    """`attention`: transformers' name of the text model's kernel. `is_recording`: whether decode steps are
    recorded and replayed. `reasons`: one sentence for each automatic choice. `device_map`: where each part
    goes, None for one device."""

    device: torch.device
    dtype: torch.dtype
    attention: str
    is_recording: bool
    reasons: tuple[str, ...]
    device_map: Mapping[str, Any] | None = None


def place(device: str, dtype: str, attn: str, decode: str = "auto") -> Placement:
    """Settles "auto" choices. Raises ValueError for names that do not exist and devices that are not
    there."""
    chosen_device, device_reason = _device(device)
    chosen_dtype, dtype_reason = _dtype(dtype, chosen_device)
    chosen_attention, attention_reason = _attention(attn, chosen_device)
    is_recording, decode_reason = _decode(decode, chosen_device)
    reasons = (device_reason, dtype_reason, attention_reason, decode_reason)
    return Placement(chosen_device, chosen_dtype, chosen_attention, is_recording, reasons)


def default_cache_bytes(device: torch.device) -> tuple[int, str]:
    """The prefixes' budget where none was set; call it with the model in place."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        budget = int(free * _ACCELERATOR_CACHE_SHARE)
        return budget, f"prefix cache {budget >> 20} MiB: half of the device's free memory"
    return _CPU_CACHE_BYTES, f"prefix cache {_CPU_CACHE_BYTES >> 20} MiB: the default on a CPU"


def refuse_too_large(needed: int, placement: Placement, *, as_stored: bool) -> None:
    """Raise ModelLoadError if weights of `needed` bytes, `as_stored` or as the placement's dtype, do not
    fit."""
    free = free_bytes(placement.device)
    if free is None or needed <= free:
        return
    stored = "as they are stored" if as_stored else f"as {str(placement.dtype).removeprefix('torch.')}"
    ways = ["a smaller or a quantised model", "several devices (--device-map auto)"]
    if not as_stored and placement.dtype == torch.float32 and needed / 2 <= free:
        ways.insert(0, f"--dtype bfloat16 ({gigabytes(needed / 2)})")
    raise ModelLoadError(
        f"its weights take {gigabytes(needed)} {stored}, and {placement.device} has {gigabytes(free)} of"
        f" memory free: take {', or '.join(ways)}"
    )


def needs_several(needed: int, placement: Placement) -> bool:
    """Return whether weights of `needed` bytes want further CUDA devices, and these are there."""
    free = free_bytes(placement.device)
    is_short = placement.device.type == "cuda" and free is not None and needed > free
    return is_short and torch.cuda.device_count() > 1


def _device(name: str) -> tuple[torch.device, str]:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"device cuda: {torch.cuda.get_device_name()} is there"
        return torch.device("cpu"), "device cpu: no CUDA device found"
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise ValueError(f"device={name!r}: {exc}") from exc
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}: no CUDA device found")
    return device, f"device {name}: as set"


def _dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    if name == "auto":
        if device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.bfloat16, "dtype bfloat16: the device computes in it"
        return torch.float32, f"dtype float32: no fast bfloat16 on {device.type}"
    if name not in _DTYPES:
        raise ValueError(f"dtype={name!r}: one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name], f"dtype {name}: as set"


def _attention(name: str, device: torch.device) -> tuple[str, str]:
    if name == "auto":
        return "sdpa", "attention sdpa: it picks the device's fused kernel"
    if name == "sdpa":
        return name, "attention sdpa: as set"
    if name == "flash":
        if device.type != "cuda" or not is_flash_attn_2_available():
            raise ValueError("attn='flash': needs a CUDA device and the flash-attn package")
        return "flash_attention_2", "attention flash_attention_2: as set"
    raise ValueError(f"attn={name!r}: one of auto, sdpa, flash")


def _decode(name: str, device: torch.device) -> tuple[bool, str]:
    if name == "auto":
        if device.type == "cpu":
            return True, "decode recorded: no interpreter between the operations of a step"
        return False, f"decode eager: recordings were not measured on {device.type}"
    if name not in ("eager", "recorded"):
        raise ValueError(f"decode={name!r}: one of auto, eager, recorded")
    return name == "recorded", f"decode {name}: as set"
