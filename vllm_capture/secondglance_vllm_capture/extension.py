"""The methods that a vLLM worker gains; the server calls them by `collective_rpc`.

Each worker answers for itself: one that does not hold the layer (pipeline parallelism) returns no maps, and
under tensor parallelism each returns the mean over its own heads. Names start with `capture_`, because vLLM
refuses an extension whose names it has itself.
"""

from __future__ import annotations

import os
from typing import Any

from secondglance_vllm_capture.attention import AttentionCapture
from secondglance_vllm_capture.keys import UnsupportedBackendError
from secondglance_vllm_capture.uncertainty import wrap_sampler


class CaptureExtension:
    """Mixed into vLLM's worker by `worker_extension_cls`."""

    model_runner: Any
    vllm_config: Any

    def capture_install(self, layer_number: int) -> dict[str, Any]:
        """Wrap the sampler and the decoder layer of that number.

        Returns what the server logs: `pid`, `backend`, and `problem` (None, or why there are no maps).
        """
        sampler = self.model_runner.sampler
        if not getattr(sampler, "is_measured", False):
            sampler.forward = wrap_sampler(sampler.forward)
            sampler.is_measured = True
        self._capture: AttentionCapture | None = None
        self._capture_problem: str | None = None
        backend = "none on this worker"
        layer = _decoder_layers(self.vllm_config).get(layer_number)
        if layer is not None:
            backend = str(layer.attn_backend.get_name())
            try:
                self._capture = AttentionCapture(self.model_runner, layer)
            except UnsupportedBackendError as exc:
                self._capture_problem = str(exc)
        return {"pid": os.getpid(), "backend": backend, "problem": self._capture_problem}

    def capture_take(self, keys: list[str]) -> list[list[float] | None]:
        """Return and forget the maps, row by row of the grid; None where there is none."""
        return [None if self._capture is None else self._capture.maps.take(key) for key in keys]

    def capture_drop(self, keys: list[str]) -> None:
        """Forget maps that nobody will fetch."""
        if self._capture is not None:
            self._capture.maps.drop(keys)

    def capture_check(self, key: str) -> list[float] | None:
        """Return and forget `attention.Check` of that request as [keys, output]; None if there is none."""
        check = None if self._capture is None else self._capture.checks.take(key)
        return None if check is None else [check.keys, check.output]

    def capture_state(self) -> dict[str, Any]:
        """Return how many maps are held, and the last failure in words."""
        if self._capture is None:
            return {"maps": 0, "failure": self._capture_problem}
        return {"maps": len(self._capture.maps), "failure": self._capture.failure}


def _decoder_layers(vllm_config: Any) -> dict[int, Any]:
    """Return the text model's attention layers that this worker holds, by number."""
    from vllm.config import get_layers_from_vllm_config
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.models.utils import extract_layer_index

    layers = get_layers_from_vllm_config(vllm_config, Attention)
    return {
        extract_layer_index(name): layer for name, layer in layers.items() if layer.attn_type == "decoder"
    }
