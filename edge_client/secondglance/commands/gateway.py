"""`secondglance gateway`: an OpenAI-compatible endpoint for the apps of this edge."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from typing import Annotated, Literal

import typer

from secondglance.commands.console import complain, exit_code_of_errors
from secondglance.commands.options import Url


def gateway(
    url: Url = None,
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen on; others than loopback need a key. [default: 127.0.0.1]"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one. [default: 8001]"),
    ] = None,
    model_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A further name by which apps may call the model; repeat for more."
        ),
    ] = None,
    system: Annotated[
        Literal["ignore", "prepend"] | None,
        typer.Option(help="What to do with system messages. [default: ignore]"),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST[:PORT]", help="Fetch pictures from this host; repeat for more."),
    ] = None,
    allow_private: Annotated[
        bool | None,
        typer.Option("--allow-private", help="Allow hosts with private addresses."),
    ] = None,
    log: Annotated[
        bool,
        typer.Option(
            "--log", help="Write a line on stderr for each request, even where stderr is no terminal."
        ),
    ] = False,
) -> None:
    """Answer apps that speak OpenAI's API, in two stages.

    Point an app's base URL at http://127.0.0.1:8001/v1: POST /v1/chat/completions with a picture as data URI
    or uploaded file, streamed or not, GET /v1/models, POST /v1/files. Pictures stay on this edge; what leaves
    is a small copy and, if the server's model is unsure, one region. Only programs of this machine can
    connect unless --host says otherwise. Remote pictures are fetched from allowed hosts only.

    docs/gateway.md says what is honoured, ignored and refused.

    \b
    Examples:
      secondglance gateway
      secondglance gateway --port 9000 --model-name gpt-4o-mini
      secondglance gateway --allow-host images.example.com
      SECONDGLANCE_EDGE_GATEWAY_API_KEY=secret secondglance gateway --host 0.0.0.0

    \b
    Environment:
      SECONDGLANCE_URL, SECONDGLANCE_API_KEY   the server and this edge's key for it
      SECONDGLANCE_EDGE_GATEWAY_API_KEY        the key that apps must send; none: any will do
      SECONDGLANCE_EDGE_GATEWAY_*              limits (docs/gateway.md)
      SECONDGLANCE_EDGE_*                      qualities, timeouts, retries

    \b
    Exit codes:
      0 told to stop   2 usage, or the address is taken
    """
    with exit_code_of_errors():
        from secondglance.errors import UsageError
        from secondglance.settings import load_settings

        if find_spec("starlette") is None or find_spec("uvicorn") is None:
            raise UsageError("the gateway is an extra: pip install 'second-glance[gateway]'")

        from secondglance.gateway.serve import serve
        from secondglance.gateway.settings import load_gateway_settings

        edge = load_settings(url=url)
        settings = load_gateway_settings(
            host=host,
            port=port,
            model_names=tuple(model_name) if model_name else None,
            system=system,
            allowed_hosts=tuple(allow_host) if allow_host else None,
            allow_private=allow_private,
        )
        _start_logging(log or sys.stderr.isatty())
        serve(settings, edge, lambda base: complain(f"{base} answers by way of {edge.url}"))


def _start_logging(is_wanted: bool) -> None:
    """Requests if wanted; failures of the gateway itself always."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if is_wanted:
        logging.getLogger("secondglance.gateway").setLevel(logging.INFO)
