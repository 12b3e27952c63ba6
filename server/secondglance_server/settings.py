"""Everything an operator may set, read once at the start; units are in the names.

A bad value stops the start with a `SettingsError` that names the environment variable and the value.
Unknown variables with our prefix are ignored: orchestrators inject their own. Not covered: what the model
fixes itself (its budgets, its default gate unless `calibration` is given); that is in `EngineInfo`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as UnparsableError

from secondglance_protocol.defaults import DEFAULT_LIMITS
from secondglance_server.calibrated_gate import GateCalibration, read_gate_calibration
from secondglance_server.errors import SettingsError
from secondglance_server.keys import ApiKey

ENV_PREFIX = "SECONDGLANCE_SERVER_"
_SHARED = DEFAULT_LIMITS  # what a dry run of the edge assumes is what a server starts with

# Names that someone who wants keys may well try. Ignored like other unknown ones they would leave it open.
_NO_SETTINGS = {f"{ENV_PREFIX}{name}" for name in ("API_KEY", "API_KEYS", "KEY")}


def _read_calibration(value: object) -> object:
    return read_gate_calibration(Path(value)) if isinstance(value, (str, Path)) else value


# Given as a path and read with the settings, so that a bad file stops the start.
CalibrationFile = Annotated[GateCalibration | None, NoDecode, BeforeValidator(_read_calibration)]


class ServerSettings(BaseSettings):
    """The server's configuration, frozen; made by `load_settings`, which explains what is wrong."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    host: str = "127.0.0.1"  # the address to listen on; 0.0.0.0 in a container
    port: int = Field(default=8000, ge=0, le=65535)  # 0 picks a free one
    keys: tuple[ApiKey, ...] = ()  # as `secondglance-server key new` prints them; none: everyone may ask
    log_level: Literal["debug", "info", "warning", "error"] = "info"  # of the JSON lines on stderr
    tracing: Literal["none", "otel"] = "none"  # otel: spans by OTLP, as the OTEL_* variables say

    model: str = Field(default="embedded", min_length=1)  # embedded, a directory, or a hub id
    device: str = Field(default="auto", min_length=1)  # auto, cpu, cuda, cuda:1, mps
    dtype: str = Field(default="auto", min_length=1)  # auto, float32, bfloat16, float16
    attn: str = Field(default="auto", min_length=1)  # transformers' attention implementation
    decode: str = Field(default="auto", min_length=1)  # eager, or recorded: steps replayed without Python
    calibration: CalibrationFile = None  # the path of what `secondglance-eval calibrate` wrote

    max_image_bytes: PositiveInt = _SHARED.max_image_bytes  # whole body of POST
    max_patch_bytes: PositiveInt = _SHARED.max_patch_bytes  # whole body of PUT
    max_image_pixels: PositiveInt = _SHARED.max_image_pixels  # of the global image, before decoding
    max_patch_pixels: PositiveInt = _SHARED.max_patch_pixels  # of the patch, likewise
    min_side_pixels: PositiveInt = _SHARED.min_side_pixels  # of either image
    max_side_pixels: PositiveInt = _SHARED.max_side_pixels  # of either image
    max_aspect_ratio: float = Field(  # longer over shorter side
        default=_SHARED.max_aspect_ratio, ge=1, allow_inf_nan=False
    )

    max_connections: PositiveInt = _SHARED.max_connections  # above it 503
    header_timeout_s: PositiveFloat = _SHARED.header_timeout_s  # of a request, to its last header
    max_header_bytes: PositiveInt = _SHARED.max_header_bytes  # request line and all headers
    keep_alive_s: PositiveInt = int(_SHARED.keep_alive_s)  # idle; clients keep 5 s or less
    write_timeout_s: PositiveFloat = _SHARED.write_timeout_s  # for a client that does not read its reply
    body_timeout_s: PositiveFloat = _SHARED.body_timeout_s  # from the last header to the last byte
    body_grace_s: PositiveFloat = _SHARED.body_grace_s  # before the slowest allowed pace is held
    min_body_bytes_per_s: PositiveInt = _SHARED.min_body_bytes_per_s  # of a body, after the grace
    max_buffered_bytes: PositiveInt = 256 * 1024 * 1024  # request bodies in memory, all together

    max_queue: PositiveInt = _SHARED.max_queue  # answers of each stage that may wait; then 503
    max_batch: PositiveInt = 8  # answers that run together on the device
    max_wait_ms: float = Field(default=2.0, ge=0, allow_inf_nan=False)  # under load; never when idle
    decode_threads: PositiveInt = 2  # images decoded at a time
    max_decoding_bytes: PositiveInt = 96 * 1024 * 1024  # memory of these; a larger one waits to be alone
    inference_deadline_s: PositiveFloat = _SHARED.inference_deadline_s  # from the body's end
    device_call_timeout_s: PositiveFloat = 300.0  # then the device is given up and the process ends with 1
    default_max_new_tokens: PositiveInt = _SHARED.max_new_tokens  # where a request does not say

    session_ttl_s: PositiveFloat = _SHARED.session_ttl_s  # of an unfinished inference, an image, a reply
    max_sessions: PositiveInt = _SHARED.max_sessions  # above it the tenant holding most loses one
    max_session_bytes: PositiveInt = 256 * 1024 * 1024  # encoded global images that wait for a patch
    max_stored_image_bytes: PositiveInt = 256 * 1024 * 1024  # encoded images that may be asked about again
    max_decoded_image_bytes: PositiveInt = 64 * 1024 * 1024  # pixels of images for further questions
    prefix_cache_bytes: PositiveInt | None = None  # computed image prefixes; None: by the device's memory
    max_tombstones: PositiveInt = 10_000  # expired ids remembered, so that they answer 410 and not 404

    shutdown_grace_s: PositiveInt = 20  # for work in flight and promised patches, from SIGTERM

    @field_validator("keys")
    @classmethod
    def _keys_differ(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if len({key.sha256 for key in keys}) < len(keys):
            raise ValueError("two entries have the same sha256")
        return keys


def load_settings(**overrides: Any) -> ServerSettings:
    """Settings from the environment; `overrides` that are not None win. Raises SettingsError."""
    given = {name: value for name, value in overrides.items() if value is not None}
    for name in _NO_SETTINGS & os.environ.keys():
        raise SettingsError(f"{name} is no setting: see `secondglance-server key new --help`")
    try:
        return ServerSettings(**given)
    except UnparsableError as exc:  # its message names the field, without the value
        raise SettingsError(f"{ENV_PREFIX}KEYS: not a JSON list of keys") from exc
    except ValidationError as exc:
        raise SettingsError("; ".join(_complaint(error) for error in exc.errors(include_url=False))) from exc


def _complaint(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    shown = "***" if error["loc"][0] == "keys" else repr(error["input"])
    return f"{ENV_PREFIX}{name.upper()}={shown}: {error['msg']}"
