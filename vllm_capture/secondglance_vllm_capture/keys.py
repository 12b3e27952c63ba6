"""A request's keys out of the paged cache: one reader for each attention backend.

The layout inside a block is the backend's own business and changes between releases, so a reader is trusted
only after the check at the start (`attention.Check`). CPU_ATTN was tested; FLASH_ATTN follows vLLM's own code
and was never run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

# (kv_cache of the layer, the request's block numbers, head size) -> [tokens of those blocks, key heads, size]
KeyReader = Callable[[Tensor, Tensor, int], Tensor]


class UnsupportedBackendError(Exception):
    """No reader is known for this backend, or not for its state."""


def read_cpu(kv_cache: Tensor, blocks: Tensor, head_size: int) -> Tensor:
    """Read CPU_ATTN's `[blocks, heads, block, 2 * head size]`.

    Seen as `[blocks, heads, 2 * block, head size]`, the first half holds the keys, and each block's memory is
    `[head size, block]`: transposed.
    """
    n_blocks, heads, block_size, _ = kv_cache.shape
    keys = kv_cache.view(n_blocks, heads, 2 * block_size, head_size)[blocks, :, :block_size]
    keys = keys.reshape(len(blocks), heads, head_size, block_size)
    return keys.permute(0, 3, 1, 2).reshape(len(blocks) * block_size, heads, head_size)


def read_flash(kv_cache: Tensor, blocks: Tensor, head_size: int) -> Tensor:
    """Read FLASH_ATTN's `[blocks, heads, block, 2 * head size]`: keys first, not transposed."""
    keys = kv_cache[blocks].transpose(1, 2)[..., :head_size]
    return keys.reshape(-1, *keys.shape[2:])


_READERS: Mapping[str, KeyReader] = {"CPU_ATTN": read_cpu, "FLASH_ATTN": read_flash}
_TRANSPOSING_ISAS = ("vec", "vec16")  # of CPU_ATTN; AMX and others pack keys in ways that were not read


def reader_of(layer: Any) -> KeyReader:
    """Return the reader for a layer's backend. Raises UnsupportedBackendError."""
    name = str(layer.attn_backend.get_name())
    if name not in _READERS:
        raise UnsupportedBackendError(f"attention backend {name}: no reader; known: {', '.join(_READERS)}")
    isa = getattr(layer, "isa", None)
    if name == "CPU_ATTN" and isa not in _TRANSPOSING_ISAS:
        raise UnsupportedBackendError(f"attention backend {name} with {isa} kernels: no reader")
    if "fp8" in str(layer.kv_cache_dtype):
        raise UnsupportedBackendError(f"a cache in {layer.kv_cache_dtype}: no reader")
    return _READERS[name]
