"""What the prefix engine does without memory and after a fault that sticks, on this machine's device.

    python -m benchmarks.instruments.gpu_faults DIRECTORY

Prints one line of JSON: `memory` and `sticky`, each with what happened. On a CPU there is no limit to set and
no context to lose, so both say so. The process is useless afterwards: run it by itself.
"""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np
import torch

from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    BrokenDeviceError,
    Engine,
    EngineError,
    Picture,
)


def request(number: int) -> AnswerRequest:
    rng = np.random.default_rng(number)
    return AnswerRequest(
        Picture(str(number), rng.integers(0, 256, (336, 336, 3), dtype=np.uint8)), "What is it?"
    )


def without_memory(engine: Engine) -> str:
    """Take all but a little of the memory; the batch must fail, and the next request must not."""
    free, _ = torch.cuda.mem_get_info()
    hoard = torch.empty(free - (64 << 20), dtype=torch.uint8, device="cuda")
    outcomes = engine.answer([request(number) for number in range(64)])
    failed = sum(isinstance(outcome, EngineError) for outcome in outcomes)
    del hoard
    torch.cuda.empty_cache()
    (after,) = engine.answer([request(1000)])
    recovered = "recovered" if isinstance(after, AnswerResult) else f"did not recover: {after}"
    return f"{failed} of 64 refused, {recovered}"


def after_an_assert(engine: Engine) -> str:
    """Lose the context; the engine must say that the device is broken."""
    with contextlib.suppress(RuntimeError):
        torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
    try:
        outcomes = engine.answer([request(2000)])
    except BrokenDeviceError as exc:
        return f"device called broken: {str(exc).splitlines()[0][:80]}"
    return f"not noticed: {outcomes}"


def main() -> None:
    if not torch.cuda.is_available():
        print(json.dumps({"memory": "not on a CPU", "sticky": "not on a CPU"}))
        return
    engine = load_engine(sys.argv[1])
    outcomes = {}
    for name, provoke in (("memory", without_memory), ("sticky", after_an_assert)):
        try:
            outcomes[name] = provoke(engine)
        except Exception as exc:  # what is to be found out
            outcomes[name] = f"{type(exc).__name__}: {exc}"
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
