"""A model over several devices, as accelerate spreads it.

Only decoder layers are spread. The encoder, the embeddings and the head stay on one device, the main one, so
that everything that the engine computes itself is in one place.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from transformers import AutoModelForImageTextToText
from transformers.utils.import_utils import is_accelerate_available

from secondglance_server.engine.protocol import ModelLoadError

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
INSTALL = "pip install 'second-glance-server[devices]'"
Devices = dict[str, Any]


def parse_device_map(text: str) -> str | Devices:
    """Return a strategy's name or a map from modules to devices, "cpu" or "disk". Raises ModelLoadError."""
    if text in STRATEGIES:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(name, (str, int)) for name in found.values()):
        known = ", ".join(STRATEGIES)
        raise ModelLoadError(f"device_map={text!r}: one of {known}, or a JSON object of modules and devices")
    return found


def refuse_without_accelerate() -> None:
    """Raise ModelLoadError where accelerate, which spreads models, is not installed."""
    if not is_accelerate_available():
        raise ModelLoadError(f"several devices need accelerate: {INSTALL}")


def spread(strategy: str, config: Any, dtype: torch.dtype) -> Devices:
    """Return the device of each part of the model, by free memory. Raises ModelLoadError."""
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]  # as transformers leaves it
    model.tie_weights()
    whole = list(model._no_split_modules or ())
    free = None
    if strategy != "sequential":
        is_low = strategy == "balanced_low_0"
        free = get_balanced_memory(model, dtype=dtype, no_split_module_classes=whole, low_zero=is_low)
    found = infer_auto_device_map(model, max_memory=free, no_split_module_classes=whole, dtype=dtype)
    return with_one_main_device(found, model)


def with_one_main_device(found: Devices, model: Any) -> Devices:
    """Return the map with everything but decoder layers on the first accelerator, or else on the CPU."""
    numbers = [device for device in found.values() if isinstance(device, int)]
    main = min(numbers) if numbers else "cpu"
    layers = model.get_decoder().layers
    path = next(name for name, module in model.named_modules() if module is layers)
    result: Devices = {}
    parts = path.split(".")
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        module = model.get_submodule(above)
        names = [name for name, _ in module.named_children() if name != part]
        names += [name for name, _ in module.named_parameters(recurse=False)]
        names += [name for name, _ in module.named_buffers(recurse=False)]
        result.update((f"{above}.{name}".lstrip("."), main) for name in names)
    return result | {f"{path}.{n}": _device_of(f"{path}.{n}", found) for n in range(len(layers))}


def _device_of(name: str, found: Devices) -> Any:
    """Return the device of the longest entry that holds `name`."""
    holders = [entry for entry in found if entry == "" or f"{name}.".startswith(f"{entry}.")]
    return found[max(holders, key=len)]
