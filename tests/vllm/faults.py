"""A worker extension that breaks on demand: what vLLM's workers may do to the server, made to happen.

A file named by SECONDGLANCE_FAULT_FILE holds the fault's name; the next step of the model with tokens to
compute takes it: vLLM also runs empty ones, after a request has ended, and nobody would wait for what they
break. With SECONDGLANCE_FAULT_KEYS=1 the keys are read as another backend lays them out, so that the check at
the start must notice.
"""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

import torch

from secondglance_vllm_capture import keys
from secondglance_vllm_capture.extension import CaptureExtension

FAULT_FILE = "SECONDGLANCE_FAULT_FILE"
WRONG_KEYS = "SECONDGLANCE_FAULT_KEYS"


class FaultyExtension(CaptureExtension):
    def capture_install(self, layer_number: int) -> dict[str, Any]:
        if os.environ.get(WRONG_KEYS):
            keys._READERS = {"CPU_ATTN": keys.read_flash}  # type: ignore[misc]  # that is the fault
        installed = super().capture_install(layer_number)
        execute = self.model_runner.execute_model

        def execute_or_break(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
            fault = pathlib.Path(os.environ[FAULT_FILE])
            if scheduled.total_num_scheduled_tokens and fault.exists():
                name = fault.read_text()
                fault.unlink()
                _break(name)
            return execute(scheduled, *args, **kwargs)

        self.model_runner.execute_model = execute_or_break
        return installed


def _break(fault: str) -> None:
    if fault == "exception":
        raise RuntimeError("a bug in the model")
    if fault == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory")
    if fault == "hang":
        time.sleep(3600)
    if fault == "death":
        os._exit(9)
    raise AssertionError(fault)
