"""Everything an operator may set, read once at the start; units are in the names.

Each setting says who changes it and when; what no operator would change is a constant beside its user. A bad
value stops the start with a `SettingsError` that names the environment variable and the value, and so does a
misspelt variable. Other unknown ones with our prefix are ignored: orchestrators inject their own. Not
covered: what the model fixes itself (its budgets, its default gate unless `calibration` is given); that is
in `EngineInfo`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as UnparsableError

from secondglance_protocol.defaults import DEFAULT_LIMITS
from secondglance_server.calibrated_gate import CalibratedGate, read_calibrated_gate
from secondglance_server.errors import SettingsError
from secondglance_server.keys import ApiKey

ENV_PREFIX = "SECONDGLANCE_SERVER_"
_SHARED: Final = DEFAULT_LIMITS  # a dry run of the edge assumes the same

# Names that someone who wants keys may well try. Ignored like other unknown ones they would leave it open.
_NO_SETTINGS = {f"{ENV_PREFIX}{name}" for name in ("API_KEY", "API_KEYS", "KEY")}
_MISSPELT = 0.8  # difflib's ratio from which a name is a setting's; what Kubernetes injects stays below


def _read_calibration(value: object) -> object:
    return read_calibrated_gate(Path(value)) if isinstance(value, (str, Path)) else value


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _is_origin(origin: str) -> str:
    if not _ORIGIN.fullmatch(origin):
        raise ValueError("not an exact origin such as https://app.example.com or http://localhost:8080")
    return origin


# As browsers write it: no path, no default port, small letters; no * and no null, which anybody can be.
_ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?"
)
Origin = Annotated[str, AfterValidator(_is_origin)]

# Given as a path and read with the settings, so that a bad file stops the start.
CalibrationFile = Annotated[CalibratedGate | None, NoDecode, BeforeValidator(_read_calibration)]


class VllmSettings(BaseSettings):
    """What an operator may say with engine=vllm, in vLLM's own words; unset: as vLLM chooses."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    served_model_name: str | None = Field(default=None, min_length=1)
    """The model's name in replies and metrics. Set it to hide the real one."""
    download_dir: str | None = Field(default=None, min_length=1)
    """Where weights are downloaded to. Set it to a volume."""
    quantization: str | None = Field(default=None, min_length=1)
    """awq, fp8, ...; unset: as the model's files say. Set it to quantize while loading."""
    tensor_parallel_size: PositiveInt = 1
    """Devices that share each layer. Raise it for models larger than one device."""
    pipeline_parallel_size: PositiveInt = 1
    """Groups of devices, each with a part of the layers. Raise it with several hosts."""
    distributed_executor_backend: Literal["mp", "ray"] | None = None
    """Processes of this host (mp), or ray. Set ray for several hosts."""
    max_model_len: PositiveInt | None = None
    """Most tokens of prompt and answer. Lower it where memory is short."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """The share of each GPU's memory that it takes. Lower it on a device that is shared."""


class ServerSettings(BaseSettings):
    """The server's configuration, frozen; made by `load_settings`, which explains what is wrong."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """The address to listen on. Containers set 0.0.0.0; so do servers whose proxy is elsewhere."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port to listen on; 0 picks a free one. Change it where 8000 is taken."""
    keys: tuple[ApiKey, ...] = ()
    """Who may ask, as `secondglance-server key new` prints it; without keys everyone may. Set it before
    anybody else can reach the server, and for each new client."""
    server_tag: str = Field(default="", pattern=r"^[a-z0-9]{0,8}$")
    """The server's name within inference ids, up to 8 of a-z and 0-9, by which a proxy finds the server. Set
    another one on each server behind a proxy."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level of the JSON lines on stderr. Whoever looks for a fault sets debug for a while."""
    tracing: Literal["none", "otel"] = "none"
    """otel sends spans by OTLP, as the OTEL_* variables say. Set it where traces are collected."""

    page: bool = False
    """Whether browsers find a page at /app that asks this server (docs/browser.md). Set it to let people ask
    with a phone."""
    cors_origins: tuple[Origin, ...] = ()
    """Origins whose pages may ask, as a JSON list: ["https://app.example.com"]. Set it for web apps that are
    served by somebody else."""

    model: str = Field(default="embedded", min_length=1)
    """embedded, a directory, or a hub id. Everyone who asks about more than the demonstration's signs sets
    it."""
    engine: Literal["prefix", "vllm"] = "prefix"
    """prefix, or vllm where vLLM is installed. Set vllm for many users at a time and for models larger than
    one device."""
    vllm: VllmSettings = Field(default_factory=VllmSettings)
    """What only vLLM's engine has: its own variables (docs/vllm.md). Set them with engine=vllm."""
    revision: str | None = Field(default=None, min_length=1)
    """A branch, tag or commit of the hub; unset: its main branch. Set it so that a start loads what was
    tested."""
    device: str = Field(default="auto", min_length=1)
    """auto, cpu, cuda, cuda:1 or mps; auto takes several CUDA devices for a model that one cannot hold. Set
    it on machines with several devices."""
    device_map: str | None = Field(default=None, min_length=1)
    """How one model is spread: auto, balanced, sequential, or a JSON object of modules and devices. Set it
    for models that one device cannot hold."""
    dtype: str = Field(default="auto", min_length=1)
    """auto, float32, bfloat16 or float16. Set it where a model's own choice is too large or too coarse."""
    attn: str = Field(default="auto", min_length=1)
    """The attention implementation of transformers. Set it where the log shows that auto chose badly."""
    decode: str = Field(default="auto", min_length=1)
    """auto, eager, or recorded (steps replayed without Python). Set eager where recording takes too much
    memory."""
    calibration: CalibrationFile = None
    """The file that `secondglance-eval calibrate` wrote: gate, layer, window. Set it after calibrating the
    model on your own questions."""

    max_image_bytes: PositiveInt = _SHARED.max_image_bytes
    """Most bytes of a POST's body. Raise it for models that take global images of more than 4 megapixels."""
    max_patch_bytes: PositiveInt = _SHARED.max_patch_bytes
    """Most bytes of a PUT's body. Lower it on thin links; keep the proxy's limit above it."""
    max_image_pixels: PositiveInt = _SHARED.max_image_pixels
    """Most pixels of the global image, read from its header. Lower it where memory is short."""
    max_patch_pixels: PositiveInt = _SHARED.max_patch_pixels
    """Most pixels of the patch, read from its header. Lower it where memory is short."""

    max_connections: PositiveInt = _SHARED.max_connections
    """Most open connections; above it 503. Raise it with `ulimit -n` for many cameras."""
    body_timeout_s: Seconds = _SHARED.body_timeout_s
    """Seconds from the last header to the end of a body. Raise it and the proxy's for slow uplinks."""
    max_buffered_bytes: PositiveInt = 256 * 1024 * 1024
    """Most bytes of all request bodies in memory; above it 503. Set it by the machine's memory."""

    sessions: str = Field(default="memory", repr=False)
    """Where inferences are kept between their stages: memory, or redis://user:password@host:6379/0 (rediss://
    is encrypted), which all servers of a fleet share. Set it for more than one server."""
    max_queue: PositiveInt = _SHARED.max_queue
    """Most answers of each stage that may wait for the device; above it 503. Set it by the device's speed and
    your clients' patience."""
    max_batch: PositiveInt = 8
    """Most answers that run together on the device. Lower it when the device runs out of memory."""
    decode_threads: PositiveInt = 2
    """Images decoded at a time, of small and of large ones each. Raise it on machines with many cores."""
    max_decoding_bytes: PositiveInt = 96 * 1024 * 1024
    """Memory of the images that are being decoded; a larger one waits to be alone. Set it by the machine's
    memory."""
    inference_deadline_s: Seconds = _SHARED.inference_deadline_s
    """Seconds from the end of a body to its answer; then 504. Raise it for slow devices, with the proxy's."""
    device_call_timeout_s: Seconds = 300.0
    """Seconds of one call after which the device is given up and the process ends with 1. Raise it for
    devices that take longer for a full batch."""
    default_max_new_tokens: PositiveInt = _SHARED.max_new_tokens
    """Tokens of an answer where a request does not say. Raise it where answers are sentences."""

    session_ttl_s: Seconds = _SHARED.session_ttl_s
    """Seconds for which an inference, its image and its reply are remembered. Raise it for slow uplinks."""
    max_sessions: PositiveInt = _SHARED.max_sessions
    """Most inferences remembered; above it the tenant with the most loses its oldest. Raise it with load."""
    max_session_bytes: PositiveInt = 256 * 1024 * 1024
    """Bytes of the images whose inferences wait for a patch. Set it by the machine's memory."""
    max_stored_image_bytes: PositiveInt = 256 * 1024 * 1024
    """Bytes of the images that can be asked about again by id. Set it by the machine's memory."""
    max_decoded_image_bytes: PositiveInt = 64 * 1024 * 1024
    """Bytes of decoded pixels kept for further questions. Set it by the machine's memory."""
    prefix_cache_bytes: PositiveInt | None = None
    """Bytes of computed image prefixes on the device; unset: by its memory. Set it on a device that is
    shared."""

    shutdown_grace_s: PositiveInt = 20
    """Seconds from SIGTERM for work in flight and promised patches. Keep it 10 s below the supervisor's."""

    @field_validator("sessions")
    @classmethod
    def _is_a_store(cls, sessions: str) -> str:
        if sessions != "memory" and not sessions.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("neither memory nor a URL that begins with redis://, rediss:// or unix://")
        return sessions

    @field_validator("keys")
    @classmethod
    def _keys_differ(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if len({key.sha256 for key in keys}) < len(keys):
            raise ValueError("two entries have the same sha256")
        return keys


# Of the settings here, those that only the prefix engine has.
_OF_PREFIX: Final = ("device", "device_map", "attn", "decode", "prefix_cache_bytes")


def load_settings(**overrides: Any) -> ServerSettings:
    """Settings from the environment; `overrides` that are not None win. Raises SettingsError."""
    settings = _read_settings({name: value for name, value in overrides.items() if value is not None})
    strange, engine = _of_the_other_engine(settings)
    if strange:
        variables = ", ".join(ENV_PREFIX + name.upper() for name in strange)
        raise SettingsError(f"{variables}: only with engine {engine}; the engine is {settings.engine}")
    return settings


def _of_the_other_engine(settings: ServerSettings) -> tuple[list[str], str]:
    """Return what is set and belongs to the engine that was not chosen, and that engine's name."""
    if settings.engine == "prefix":
        return [name for name in VllmSettings.model_fields if _is_set(settings.vllm, name)], "vllm"
    return [name for name in _OF_PREFIX if _is_set(settings, name)], "prefix"


def _is_set(settings: BaseSettings, name: str) -> bool:
    return bool(getattr(settings, name) != type(settings).model_fields[name].default)


def _read_settings(given: dict[str, Any]) -> ServerSettings:
    for name in _NO_SETTINGS & os.environ.keys():
        raise SettingsError(f"{name} is no setting: see `secondglance-server key new --help`")
    _refuse_misspelt(os.environ)
    of_vllm = {name: given.pop(name) for name in VllmSettings.model_fields if name in given}
    try:
        return ServerSettings(vllm=VllmSettings(**of_vllm), **given)
    except UnparsableError as exc:  # its message names the field, without the value
        name, form = ("CORS_ORIGINS", "origins") if "cors_origins" in str(exc) else ("KEYS", "keys")
        raise SettingsError(f"{ENV_PREFIX}{name}: not a JSON list of {form}") from exc
    except ValidationError as exc:
        raise SettingsError("; ".join(_complaint(error) for error in exc.errors(include_url=False))) from exc


def _refuse_misspelt(environment: Iterable[str]) -> None:
    """Raise SettingsError for a variable that is nearly one of ours: it would change nothing, unseen."""
    known = {name.upper() for name in (*ServerSettings.model_fields, *VllmSettings.model_fields)} - {"VLLM"}
    ours = {name.removeprefix(ENV_PREFIX) for name in environment if name.startswith(ENV_PREFIX)}
    for name in sorted(ours - known):
        for nearest in difflib.get_close_matches(name, known, n=1, cutoff=_MISSPELT):
            raise SettingsError(f"{ENV_PREFIX}{name} is no setting; the nearest one is {ENV_PREFIX}{nearest}")


def _complaint(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    shown = "***" if error["loc"][0] in ("keys", "sessions") else repr(error["input"])
    return f"{ENV_PREFIX}{name.upper()}={shown}: {error['msg']}"
