"""The gateway as an ASGI app: routes, and failures of whatever kind in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from secondglance.client import AsyncEdgeClient
from secondglance.gateway.completions import create_completion, on_client_gone
from secondglance.gateway.errors import ApiError, bad_request, gateway_failed
from secondglance.gateway.files import FileStore
from secondglance.gateway.guard import GuardMiddleware
from secondglance.gateway.responses import create_response
from secondglance.gateway.services import GatewayServices
from secondglance.gateway.settings import GatewaySettings
from secondglance.gateway.web_page import page_routes
from secondglance.wire.remote import RemotePictures


def remote_pictures(settings: GatewaySettings) -> RemotePictures:
    """Return what fetches pictures for this gateway."""
    return RemotePictures(
        settings.allowed_hosts,
        allow_private=settings.allow_private,
        max_bytes=settings.max_fetch_bytes,
        timeout_s=settings.fetch_timeout_s,
    )


def create_app(settings: GatewaySettings, client: AsyncEdgeClient) -> Starlette:
    """The app closes `client` when it stops."""
    parts = GatewayServices(
        settings, client, FileStore(max_bytes=settings.max_files_bytes), remote_pictures(settings)
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await parts.remote.aclose()
            await client.aclose()

    app = Starlette(
        routes=[
            Route("/healthz", _health),
            Route("/v1/chat/completions", create_completion, methods=["POST"]),
            Route("/v1/responses", create_response, methods=["POST"]),
            Route("/v1/models", _models),
            Route("/v1/models/{name:path}", _model),
            Route("/v1/files", _add_file, methods=["POST"]),
            Route("/v1/files", _list_files),
            Route("/v1/files/{file_id}", _file),
            Route("/v1/files/{file_id}", _remove_file, methods=["DELETE"]),
            *(page_routes(client) if settings.is_on_loopback else ()),
        ],
        middleware=[Middleware(GuardMiddleware, settings=settings)],
        exception_handlers={
            HTTPException: _on_http_error,
            ClientDisconnect: on_client_gone,
            Exception: _on_failure,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.parts = parts
    return app


def _parts(request: Request) -> GatewayServices:
    parts: GatewayServices = request.app.state.parts
    return parts


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _models(request: Request) -> Response:
    parts = _parts(request)
    names = parts.model_names(await parts.client.model())
    return JSONResponse({"object": "list", "data": [parts.model_object(name) for name in names]})


async def _model(request: Request) -> Response:
    parts = _parts(request)
    name = request.path_params["name"]
    parts.check_model(name, await parts.client.model())
    return JSONResponse(parts.model_object(name))


async def _add_file(request: Request) -> Response:
    async with request.form(max_files=1, max_fields=16) as form:
        upload, purpose = form.get("file"), form.get("purpose")
        if not isinstance(upload, UploadFile):
            raise bad_request("a part named file is needed", code="missing_required_parameter", param="file")
        data = await upload.read()
        stored = _parts(request).files.add(
            data, name=upload.filename or "file", purpose=purpose if isinstance(purpose, str) else "vision"
        )
    return JSONResponse(stored.to_dict())


async def _list_files(request: Request) -> Response:
    files = [stored.to_dict() for stored in _parts(request).files]
    return JSONResponse({"object": "list", "data": files, "has_more": False})


async def _file(request: Request) -> Response:
    return JSONResponse(_parts(request).files.get(request.path_params["file_id"]).to_dict())


async def _remove_file(request: Request) -> Response:
    file_id = request.path_params["file_id"]
    _parts(request).files.remove(file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def _on_http_error(request: Request, exc: Exception) -> Response:
    """Unknown paths and methods, forms that cannot be parsed."""
    assert isinstance(exc, HTTPException)  # registered for nothing else
    message = f"{exc.detail}: {request.method} {request.url.path}"
    codes = {404: "unknown_url", 405: "method_not_allowed"}
    return ApiError(
        exc.status_code, message, codes.get(exc.status_code), headers=exc.headers or {}
    ).response()


def _on_failure(request: Request, exc: Exception) -> Response:
    """Answer a request that met a bug of ours; the server logs the traceback."""
    return gateway_failed().response()
