"""Starts vLLM: its environment, its arguments, its processes.

The scheduler and the model run in processes of their own; this one prepares and collects. Variables that an
operator has set win over the ones chosen here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from secondglance_server.engine.vllm.front import Front
from secondglance_server.engine.vllm.options import VllmOptions

EXTENSION = ""  # the worker's extension class; empty: the capture package's own
_SHUTDOWN_S = 5.0
_ENVIRONMENT = {
    # The second runner keeps the batch to itself, so the attention of a request cannot be found in it.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    # A forked process would keep this server's listening sockets open after its death.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    # This process has its own log format; vLLM's lines come out in it.
    "VLLM_CONFIGURE_LOGGING": "0",
}
_CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # containers may not bind threads to cores
}


def device_of_vllm() -> str:
    """Return the kind of device that the installed build of vLLM computes on. Imports vLLM."""
    os.environ.update(_ENVIRONMENT | os.environ)
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def start_vllm(front: Front, options: VllmOptions, on_step: Callable[[int, float], None]) -> Any:
    """Return vLLM's `AsyncLLM`, loaded. Blocks for a minute and more.

    `on_step` is told, on the event loop, how many requests run and the share of the cache that they hold.
    """
    is_cpu = front.placement.device.type == "cpu"
    if is_cpu:
        os.environ.update(_CPU_ENVIRONMENT | os.environ)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    given: dict[str, Any] = {
        "revision": options.revision,
        "download_dir": options.download_dir,
        "quantization": options.quantization,
        "distributed_executor_backend": options.executor,
        "max_model_len": options.max_model_len,
        "gpu_memory_utilization": options.memory_share,
        "max_num_batched_tokens": options.max_batched_tokens,
    }
    if is_cpu:
        given["block_size"] = 32  # vLLM takes 128 there, and shares whole blocks only
    else:  # full graphs would hide the layer from the capture
        given["compilation_config"] = {"cudagraph_mode": "PIECEWISE"}
    arguments = AsyncEngineArgs(
        model=front.source,
        dtype=str(front.placement.dtype).removeprefix("torch."),
        model_impl=front.model_impl,
        tensor_parallel_size=options.tensor_parallel,
        pipeline_parallel_size=options.pipeline_parallel,
        max_num_seqs=options.max_running,
        limit_mm_per_prompt={"image": 2},
        mm_processor_cache_gb=0,  # pictures come finished; what was computed of them is cached by their keys
        enable_prefix_caching=True,
        scheduling_policy="priority",
        generation_config="vllm",  # plain greedy, whatever the model's file says
        enforce_eager=is_cpu if options.is_eager is None else options.is_eager,
        worker_extension_cls=EXTENSION or _extension(),
        disable_log_stats=True,
        **{name: value for name, value in given.items() if value is not None},
    )
    return AsyncLLM.from_engine_args(arguments, stat_loggers=[_observer(on_step)])


def stop_vllm(llm: Any) -> None:
    """End vLLM's processes."""
    llm.shutdown(timeout=_SHUTDOWN_S)


def _extension() -> str:
    import secondglance_vllm_capture

    return str(secondglance_vllm_capture.EXTENSION)


def _observer(on_step: Callable[[int, float], None]) -> Any:
    """Return a factory of what vLLM tells after each step."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Observer(StatLoggerBase):  # type: ignore[misc]  # vLLM is untyped here
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            """Nothing of the configuration is needed."""

        def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
            if scheduler_stats is not None:
                on_step(int(scheduler_stats.num_running_reqs), float(scheduler_stats.kv_cache_usage))

        def log_engine_initialized(self) -> None:
            """Said by the app."""

    return Observer
