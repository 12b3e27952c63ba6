"""The app: settings and an engine in, an ASGI application out.

The layers, outermost first: linger, CORS where pages of other origins may ask, observe (ids, problems, log,
metrics), door (what the request is), keys, admission, body (limits), routes. The engine is loaded on the
thread that owns it while the server already answers `/healthz`; `/readyz` turns when it can answer questions.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any, Protocol

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from secondglance_server.calibrated_gate import WrongModelError, with_calibrated_gate
from secondglance_server.engine.protocol import Engine, EngineInfo, ModelLoadError
from secondglance_server.errors import SettingsError
from secondglance_server.http.admission import AdmissionMiddleware
from secondglance_server.http.auth import KeyMiddleware
from secondglance_server.http.body import BodyMiddleware
from secondglance_server.http.browser.cors import cors_options
from secondglance_server.http.browser.page import page_routes
from secondglance_server.http.door import DoorMiddleware
from secondglance_server.http.linger import LingerMiddleware
from secondglance_server.http.observe import ObserveMiddleware
from secondglance_server.http.openapi import DESCRIPTION, describe
from secondglance_server.http.routes import router
from secondglance_server.http.state import ServerState
from secondglance_server.http.validation import on_validation_error, refusal_handler
from secondglance_server.inference.async_engine import AsyncEngine
from secondglance_server.inference.decoding import Decoders
from secondglance_server.inference.device_queue import DeviceQueue
from secondglance_server.inference.idempotency import IdempotentReplies
from secondglance_server.inference.readiness import Readiness, look_after, look_at, watch
from secondglance_server.inference.serving.core import ServingCore
from secondglance_server.inference.serving.engine import ServingEngine
from secondglance_server.inference.stores.opening import open_stores
from secondglance_server.inference.stores.protocol import Stores
from secondglance_server.inference.two_stages import TwoStages
from secondglance_server.settings import ENV_PREFIX, ServerSettings
from secondglance_server.telemetry.metrics import Metrics
from secondglance_server.telemetry.tracing import LocalTracer, Tracer

VLLM_MAX_BATCH = 64  # unless max_batch is set: rows join and leave at each step, so more cost less
MAX_WAIT_MS = 2.0  # for company on a busy device; an idle one never waits

_log = logging.getLogger("secondglance_server.app")


def create_app(
    settings: ServerSettings,
    engine: Engine | None = None,
    *,
    tracer: Tracer | None = None,
    clock: Callable[[], float] = time.monotonic,
    stores: Stores | None = None,
    on_failure: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The server, with its `ServerState` in `app.state.server`.

    Without `engine`, the model of the settings is loaded in the lifespan. If that fails, or the device is
    given up later, it is logged and `on_failure` is called. `tracer` and `stores` go before those of
    the settings; `clock` says how old what is remembered in memory is. Raises SettingsError.
    """
    tracer = tracer or _tracer_of(settings)
    metrics = Metrics()
    metrics.show_server(tag=settings.server_tag, version=version("second-glance-server"))
    stores = stores or open_stores(settings, metrics.observe_store, clock)
    device, start = _engine_of(settings, engine, metrics)
    state = _build_state(settings, device, Readiness(on_failure=on_failure), metrics, tracer, stores)

    app = FastAPI(
        title="Second Glance",
        version=version("second-glance-server"),
        description=DESCRIPTION,
        lifespan=_lifespan(state, start, is_loaded=engine is not None),
        redirect_slashes=False,
    )
    app.state.server = state
    # Flat, so that the door sees what the router will match; copies, so that two apps share no route.
    app.router.routes.extend(copy.copy(route) for route in router.routes)
    if settings.page:
        app.router.routes.extend(page_routes())
    app.add_exception_handler(HTTPException, refusal_handler(app.routes))
    app.add_exception_handler(RequestValidationError, on_validation_error)
    # Starlette puts the last one added outermost.
    app.add_middleware(BodyMiddleware, settings=settings)
    app.add_middleware(AdmissionMiddleware, admit=state.admitted)
    app.add_middleware(KeyMiddleware, keys=settings.keys, quotas=stores.quotas)
    app.add_middleware(DoorMiddleware, routes=app.routes)
    app.add_middleware(ObserveMiddleware, metrics=state.metrics, tracer=tracer)
    if settings.cors_origins:  # around what makes problem documents: pages must be able to read refusals
        app.add_middleware(CORSMiddleware, **cors_options(settings.cors_origins))
    app.add_middleware(LingerMiddleware)
    describe(app, has_keys=bool(settings.keys))
    return app


class _Loaded(Protocol):
    """What the app asks of an engine itself, whatever implements it."""

    @property
    def info(self) -> EngineInfo: ...


def _engine_of(
    settings: ServerSettings, engine: Engine | None, metrics: Metrics
) -> tuple[AsyncEngine, Callable[[], Future[Any]]]:
    """Return the engine of the settings and what starts it; the future holds a `_Loaded`.

    Raises SettingsError.
    """
    if settings.engine == "vllm" and engine is None:
        return _vllm_engine(settings, metrics)
    queue = DeviceQueue(
        max_queue=settings.max_queue,
        max_batch=settings.max_batch,
        max_wait_ms=MAX_WAIT_MS,
        on_batch=metrics.observe_batch,
    )
    return queue, lambda: queue.start(lambda: engine or _load(settings))


def _vllm_engine(settings: ServerSettings, metrics: Metrics) -> tuple[AsyncEngine, Callable[[], Future[Any]]]:
    from secondglance_server.engine.vllm.options import VllmMissingError, VllmOptions, check_installed

    try:
        check_installed()
    except VllmMissingError as exc:
        raise SettingsError(f"{ENV_PREFIX}ENGINE=vllm: {exc}") from exc
    options = VllmOptions(
        model=settings.model,
        served_name=settings.vllm.served_model_name,
        revision=settings.revision,
        localization=settings.calibration.localization if settings.calibration else None,
        download_dir=settings.vllm.download_dir,
        dtype=settings.dtype,
        quantization=settings.vllm.quantization,
        tensor_parallel=settings.vllm.tensor_parallel_size,
        pipeline_parallel=settings.vllm.pipeline_parallel_size,
        executor=settings.vllm.distributed_executor_backend,
        max_model_len=settings.vllm.max_model_len,
        memory_share=settings.vllm.gpu_memory_utilization,
        max_running=settings.max_batch if "max_batch" in settings.model_fields_set else VLLM_MAX_BATCH,
    )
    serving = ServingEngine(max_queue=settings.max_queue, max_running=options.max_running)

    async def load() -> ServingCore:
        # vLLM is imported here, and only where it is wanted.
        from secondglance_server.engine.vllm.load import load_vllm

        return await load_vllm(options, metrics.observe_batch)

    return serving, lambda: serving.start(load)


def _tracer_of(settings: ServerSettings) -> Tracer:
    if settings.tracing == "none":
        return LocalTracer()
    try:
        from secondglance_server.telemetry.otel import otlp_tracer  # an extra: not installed with the server
    except ImportError as exc:
        raise SettingsError(
            f"{ENV_PREFIX}TRACING={settings.tracing}: pip install 'second-glance-server[otel]' ({exc})"
        ) from exc
    return otlp_tracer()


def _build_state(
    settings: ServerSettings,
    device: AsyncEngine,
    readiness: Readiness,
    metrics: Metrics,
    tracer: Tracer,
    stores: Stores,
) -> ServerState:
    state = ServerState(
        settings=settings,
        readiness=readiness,
        device=device,
        stores=stores,
        replies=IdempotentReplies(stores.replies),
        metrics=metrics,
        tracer=tracer,
    )
    metrics.show_state(
        readiness=state.readiness,
        device=state.device,
        stores=state.stores,
        cache_bytes=lambda: device.held_bytes,
        max_queue=settings.max_queue,
        max_sessions=settings.max_sessions,
    )
    return state


def _lifespan(
    state: ServerState, start: Callable[[], Future[_Loaded]], *, is_loaded: bool
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        decoders = Decoders(state.settings)
        loading = start()
        ready = asyncio.create_task(_become_ready(state, loading, decoders))
        tasks = [ready]
        if state.stores.is_shared:
            await look_at(state.stores.check, state.readiness)
            tasks.append(asyncio.create_task(look_after(state.stores.check, state.readiness)))
        if is_loaded:
            await ready
        max_call_s = state.settings.device_call_timeout_s
        tasks.append(asyncio.create_task(watch(state.device, state.readiness, max_call_s=max_call_s)))
        try:
            yield
        finally:
            state.readiness.drain()
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(state.device.close)
            await state.stores.close()
            decoders.close()
            await asyncio.to_thread(state.tracer.close)

    return lifespan


def _load(settings: ServerSettings) -> Engine:
    # Torch is imported here, on the thread that will own the device, and only where a model is wanted.
    from secondglance_server.engine.loader import load_engine

    calibration = settings.calibration
    return load_engine(
        settings.model,
        revision=settings.revision,
        device=settings.device,
        device_map=settings.device_map,
        dtype=settings.dtype,
        attn=settings.attn,
        decode=settings.decode,
        localization=calibration.localization if calibration else None,
        cache_bytes=settings.prefix_cache_bytes,
    )


def _origin_of_gate(settings: ServerSettings) -> str:
    if settings.calibration is None:
        return "the model's own"
    origin = settings.calibration.provenance
    return f"calibrated on {origin.date} with {origin.questions} questions of {origin.dataset}"


async def _become_ready(state: ServerState, loading: Future[_Loaded], decoders: Decoders) -> None:
    try:
        engine = await asyncio.wrap_future(loading)
        info = with_calibrated_gate(engine.info, state.settings.calibration)
    except (ModelLoadError, WrongModelError) as exc:
        _log.error("model not loaded", extra={"model": state.settings.model, "reason": str(exc)})
        is_lasting = not getattr(exc, "may_pass", False)
        state.readiness.fail("the model could not be loaded", mistake=str(exc) if is_lasting else "")
        return
    except Exception as exc:  # any other failure to load means the same: there will be no answers
        facts = {"model": state.settings.model, "reason": f"{type(exc).__name__}: {exc}"}
        _log.error("model not loaded", extra=facts, exc_info=True)
        state.readiness.fail("the model could not be loaded")
        return
    loaded = {"model": info.name, "device": info.device, "dtype": info.dtype, "domain": info.domain}
    _log.info("model loaded", extra=loaded)
    for note in info.notes:
        _log.info("choice", extra={"note": note})
    _log.info("choice", extra={"note": f"gate {info.gate}: {_origin_of_gate(state.settings)}"})
    state.metrics.show_model(info)
    state.two_stages = TwoStages(
        state.settings, info, state.device, state.stores.sessions, state.stores.images, decoders
    )
    state.readiness.become_ready()
