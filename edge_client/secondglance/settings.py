"""Everything a user may set, read once when a client is made; arguments win over the environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from secondglance.errors import UsageError
from secondglance.pictures.encoding import Format, Recipe, Subsampling
from secondglance.pictures.original import MAX_ORIGINAL_PIXELS
from secondglance.retry import RetryPolicy

ENV_PREFIX = "SECONDGLANCE_EDGE_"
GATEWAY_PREFIX = f"{ENV_PREFIX}GATEWAY_"  # of settings of its own

_ENCODING = {
    "format",
    "image_quality",
    "image_scale",
    "image_subsampling",
    "patch_quality",
    "patch_subsampling",
}

Quality = Annotated[int, Field(ge=1, le=100)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EdgeSettings(BaseSettings):
    """The edge's configuration, frozen; times are in seconds, sizes in pixels.

    `url` and `api_key` are SECONDGLANCE_URL and SECONDGLANCE_API_KEY, all others SECONDGLANCE_EDGE_ and their
    name. `load_settings` reads them with errors that name the variable.

    >>> from secondglance import EdgeClient
    >>> with EdgeClient(settings=EdgeSettings(image_quality=60, retries=0)) as client:
    ...     client.ask("examples/photo.jpg", "How many signs are there?").receipt.retries
    0
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", populate_by_name=True
    )

    url: str = Field(  # the server's base URL
        default="http://127.0.0.1:8000", validation_alias=AliasChoices("url", "SECONDGLANCE_URL")
    )
    api_key: SecretStr | None = Field(  # this edge's key for the server
        default=None, validation_alias=AliasChoices("api_key", "SECONDGLANCE_API_KEY")
    )

    link_aware: bool = True  # encode as the measured link deserves, unless one of the next six is set
    point_worth_s: float = Field(default=0.1, ge=0, allow_inf_nan=False)  # a point of accuracy, in seconds
    # benchmarks/codecs.py and ladder.py: what costs the pair, not stage one alone, no accuracy (docs/log.md).
    format: Format = "webp"  # of what is uploaded
    image_quality: Quality = 40  # of the small copy
    image_scale: float = Field(default=1.0, ge=0.1, le=1)  # of the side that the server takes
    image_subsampling: Subsampling = "4:2:0"  # of JPEG, where that is asked for
    patch_quality: Quality = 85  # of the region
    patch_subsampling: Subsampling = "4:4:4"  # small coloured details are what a patch is for
    min_quality: Quality = 30  # the least that an uplink budget may lead to
    max_original_pixels: int = Field(default=MAX_ORIGINAL_PIXELS, ge=1)  # larger pictures are refused

    connect_timeout_s: Seconds = 5.0  # to connect
    read_timeout_s: Seconds = 60.0  # for each read, and for each 16 KiB of a write
    total_timeout_s: Seconds = 300.0  # for one request, from connecting to the reply's last byte
    retries: int = Field(default=2, ge=0)  # of one request, after the first try
    retry_wait_s: Seconds = 0.5  # before the first retry; doubles with each
    max_retry_wait_s: Seconds = 8.0  # between two tries, unless the server says
    max_retry_after_s: Seconds = 120.0  # the longest wait taken from a server

    early_region: bool = False  # send the region at the draft's first doubtful token, before its last
    trace: bool = False  # name a trace in each request, 70 bytes; a span of OpenTelemetry always is
    remembered_images: int = Field(default=256, ge=0)  # pictures that need no second upload
    assumed_side: int = Field(default=448, ge=2)  # --dry-run asks no server what it takes

    @property
    def may_adapt(self) -> bool:
        """Whether encodings may follow the link: nobody has said which they shall be."""
        return self.link_aware and self.may_follow_recipes

    @property
    def may_follow_recipes(self) -> bool:
        """Whether encodings may be those that the server names as best for its model."""
        return not self.model_fields_set & _ENCODING

    @property
    def image_recipe(self) -> Recipe:
        """How the small copy is encoded."""
        return Recipe(self.format, self.image_quality, self.min_quality, self.image_subsampling)

    @property
    def patch_recipe(self) -> Recipe:
        """How the region is encoded."""
        return Recipe(self.format, self.patch_quality, self.min_quality, self.patch_subsampling)

    @property
    def retry_policy(self) -> RetryPolicy:
        """When a failed request is tried again."""
        return RetryPolicy(self.retries, self.retry_wait_s, self.max_retry_wait_s, self.max_retry_after_s)


def load_settings(**overrides: Any) -> EdgeSettings:
    """Settings from the environment; `overrides` that are not None win. Raises UsageError."""
    given = {name: value for name, value in overrides.items() if value is not None}
    refuse_misspelt(EdgeSettings, os.environ)
    try:
        return EdgeSettings(**given)
    except ValidationError as exc:
        raise UsageError("; ".join(_complaint(error) for error in exc.errors(include_url=False))) from exc


def variable_of(settings: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a setting: its own, or its prefix and name. docs/tables.py too."""
    alias = settings.model_fields[name].validation_alias
    named = [choice for choice in getattr(alias, "choices", ()) if str(choice).isupper()]
    return str(named[0]) if named else f"{settings.model_config['env_prefix']}{name.upper()}"


def refuse_misspelt(settings: type[BaseSettings], environment: Iterable[str]) -> None:
    """Raise UsageError for a variable with our prefix that names no setting: it would change nothing, unseen.

    The gateway's settings call it too. Their prefix is longer, and what begins with it is not the edge's.
    """
    prefix = str(settings.model_config["env_prefix"])
    variables = {name.upper(): variable_of(settings, name) for name in settings.model_fields}
    for name in sorted(environment):
        is_ours = name.startswith(prefix) and (prefix != ENV_PREFIX or not name.startswith(GATEWAY_PREFIX))
        if is_ours and name not in variables.values():
            (nearest,) = difflib.get_close_matches(name.removeprefix(prefix), variables, n=1, cutoff=0)
            raise UsageError(f"{name} is no setting; the nearest one is {variables[nearest]}")


def _complaint(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    secret = "key" in name.lower()
    if name in EdgeSettings.model_fields:
        variable = variable_of(EdgeSettings, name)
    else:
        variable = name if name.isupper() else f"{ENV_PREFIX}{name.upper()}"
    return f"{variable}={'***' if secret else repr(error['input'])}: {error['msg']}"
