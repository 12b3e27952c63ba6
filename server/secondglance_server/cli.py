"""`secondglance-server`: serve until told to stop, or ask a running server how it is.

Exit codes of `serve`: 0 after SIGTERM or SIGINT; 1 if the device was given up, or the model was not loaded
for a reason that may pass (the hub does not answer); 2 for a wrong setting, a missing package, or a model
that cannot be served however often it is tried; 3 if the address cannot be listened on.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from pydantic import ValidationError

from secondglance_server.errors import ListenError, SettingsError
from secondglance_server.keys import ApiKey, hash_key, new_key
from secondglance_server.settings import ServerSettings, load_settings

_VERDICTS = ("yes", "answers only", "no")
_HELP = {"help_option_names": ["-h", "--help"]}

# Plain help, no panels, as that of `secondglance`.
cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_HELP,
)
key_cli = typer.Typer(
    help="Make API keys.", no_args_is_help=True, rich_markup_mode=None, context_settings=_HELP
)
cli.add_typer(key_cli, name="key")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"secondglance-server {version('second-glance-server')}")
        raise typer.Exit


@cli.callback()
def _secondglance_server(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which this is.")
    ] = False,
) -> None:
    """Answer questions about pictures, and ask the edge for a region where the model is unsure.

    Logs go to stderr, one JSON object a line.

    \b
    Environment:
      SECONDGLANCE_SERVER_*  every setting; options win (docs/operations.md)

    \b
    Exit codes:
      0 ok   1 hub or device failed: start again; not ready   2 usage, or a model that cannot be served
      3 address cannot be listened on

    \b
    Models of the hub: Hugging Face's own HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are heeded (docs/models.md)
    """


@cli.command(context_settings=_HELP)
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if unset.")] = None,
    port: Annotated[int | None, typer.Option(help="Port, 8000 if unset; 0 picks a free one.")] = None,
    model: Annotated[str | None, typer.Option(help="embedded, a directory, or a hub id.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub.")] = None,
    engine: Annotated[str | None, typer.Option(help="prefix, or vllm (docs/vllm.md).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = None,
    device_map: Annotated[
        str | None, typer.Option(help="Over several devices: auto, balanced, sequential, or JSON.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16.")] = None,
    attn: Annotated[str | None, typer.Option(help="Attention implementation, or auto.")] = None,
    decode: Annotated[str | None, typer.Option(help="auto, eager or recorded steps.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="What `secondglance-eval calibrate` measured: its file.")
    ] = None,
    sessions: Annotated[
        str | None,
        typer.Option(help="memory, or redis://host:6379/0, which servers share."),
    ] = None,
    max_queue: Annotated[int | None, typer.Option(help="Answers of each stage that may wait.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Answers that run together on the device.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    tracing: Annotated[str | None, typer.Option(help="none, or otel: spans by OTLP.")] = None,
    page: Annotated[
        bool | None, typer.Option("--page", help="Show browsers a page at /app (docs/browser.md).")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Let pages of this origin ask; repeat for more."),
    ] = None,
    served_model_name: Annotated[str | None, typer.Option(help="vllm: the model's name in replies.")] = None,
    download_dir: Annotated[str | None, typer.Option(help="vllm: where weights are downloaded to.")] = None,
    quantization: Annotated[str | None, typer.Option(help="vllm: awq, fp8, ...")] = None,
    tensor_parallel_size: Annotated[
        int | None, typer.Option(help="vllm: devices that share a layer.")
    ] = None,
    pipeline_parallel_size: Annotated[
        int | None, typer.Option(help="vllm: groups of devices, one after the other.")
    ] = None,
    distributed_executor_backend: Annotated[str | None, typer.Option(help="vllm: mp or ray.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="vllm: most tokens of prompt and answer.")] = None,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="vllm: share of each GPU's memory.")
    ] = None,
) -> None:
    """Serve until SIGTERM or SIGINT; what no option says comes from SECONDGLANCE_SERVER_* variables."""
    settings = _settings(
        host=host,
        port=port,
        model=model,
        revision=revision,
        device=device,
        device_map=device_map,
        dtype=dtype,
        attn=attn,
        decode=decode,
        calibration=calibration,
        sessions=sessions,
        max_queue=max_queue,
        max_batch=max_batch,
        log_level=log_level,
        tracing=tracing,
        page=page,
        cors_origins=tuple(cors_origin) if cors_origin else None,
        engine=engine,
        served_model_name=served_model_name,
        download_dir=download_dir,
        quantization=quantization,
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
        distributed_executor_backend=distributed_executor_backend,
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization,
    )
    # Imported here: a health check runs every few seconds and needs no web framework.
    from secondglance_server.serving import leave, run_until_stopped
    from secondglance_server.telemetry.logs import configure_logging

    configure_logging(settings.log_level)
    with _explained_failures():
        is_well = run_until_stopped(settings)
    leave(is_well=is_well)


@cli.command(context_settings=_HELP)
def models() -> None:
    """List the model types of transformers: whether they can be asked here, and why or why not.

    yes: answers, and asks for regions. answers only: never asks for one. no: is not served, or was not tried.
    Any model is probed when it is loaded; what was found then is in /v1/model and in the log.
    """
    from secondglance_server.engine.generic.registry import model_types

    rows = model_types()
    width = max(len(row.type) for row in rows)
    for row in sorted(rows, key=lambda row: (_VERDICTS.index(row.verdict), row.type)):
        typer.echo(f"{row.type:{width}}  {row.verdict:12}  {' '.join(row.reason.split())}")


@cli.command(context_settings=_HELP)
def health(
    url: Annotated[
        str | None, typer.Option(help="Base URL; the settings' host and port if left out.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 3.0,
) -> None:
    """Exit 0 if the server is ready for requests, 1 if not."""
    if url is None:
        settings = _settings()
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
        url = f"http://{host}:{settings.port}"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/readyz", timeout=timeout_s) as response:
            typer.echo(f"ready ({response.status})")
    except (urllib.error.URLError, OSError, ValueError) as exc:
        typer.echo(f"not ready: {exc}", err=True)
        raise typer.Exit(1) from exc


@cli.command("fleet-status", context_settings=_HELP)
def fleet_status(
    urls: Annotated[list[str], typer.Argument(help="Base URLs of the servers, not of their proxy.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait for each answer.")] = 3.0,
) -> None:
    """Ask servers how they are, and print one line for each; exit 1 if one is not ready.

    \b
    Environment, where the servers have keys:
      SECONDGLANCE_API_KEY      a key of scope ask, for the model
      SECONDGLANCE_METRICS_KEY  a key of scope metrics, for the numbers
    """
    from secondglance_server.fleet_status import as_document, as_table, ask_all

    servers = ask_all(urls, timeout_s=timeout_s)
    typer.echo(as_document(servers) if as_json else as_table(servers))
    if not all(server.is_ready for server in servers):
        raise typer.Exit(1)


@key_cli.command("new", context_settings=_HELP)
def new(
    tenant: Annotated[str, typer.Argument(help="Whose key it is: 1 to 64 of A-Z a-z 0-9 . _ -.")],
    scope: Annotated[str, typer.Option(help="ask: the API; metrics: /metrics only.")] = "ask",
    requests_per_min: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    bytes_per_min: Annotated[int | None, typer.Option(help="Bytes of request bodies a minute.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Requests at a time.")] = None,
) -> None:
    """Print a new key and its entry for SECONDGLANCE_SERVER_KEYS, which is a JSON list of such entries.

    The key is shown once and stored nowhere: give it to the client. The server keeps only its hash.
    """
    key = new_key()
    try:
        entry = ApiKey(
            tenant=tenant,
            sha256=hash_key(key),
            scope=scope,
            requests_per_min=requests_per_min,
            bytes_per_min=bytes_per_min,
            max_concurrent=max_concurrent,
        )
    except ValidationError as exc:
        for error in exc.errors():
            typer.echo(f"{error['loc'][0]}={error['input']!r}: {error['msg']}", err=True)
        raise typer.Exit(2) from exc
    typer.echo(f"SECONDGLANCE_API_KEY={key}")
    typer.echo(f"SECONDGLANCE_SERVER_KEYS='[{entry.model_dump_json(exclude_defaults=True)}]'")


def _settings(**overrides: str | float | tuple[str, ...] | None) -> ServerSettings:
    with _explained_failures():
        return load_settings(**overrides)


@contextmanager
def _explained_failures() -> Iterator[None]:
    """Turn what keeps the server from starting into one line and an exit code."""
    try:
        yield
    except (SettingsError, ListenError) as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(2 if isinstance(exc, SettingsError) else 3) from exc


def main() -> None:
    """Entry point of `secondglance-server`."""
    cli(prog_name="secondglance-server")


if __name__ == "__main__":
    main()
