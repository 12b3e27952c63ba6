"""From what libraries raise while a model is fetched and loaded to one line that says what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from secondglance_server.engine.protocol import ModelLoadError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM)
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "can't allocate memory")


def refusal(model: str, exc: Exception) -> ModelLoadError | None:
    """Return what `exc` means for who starts the server; None for a fault that is nobody's wish."""
    if isinstance(exc, ModelLoadError):
        reason, may_pass = str(exc), exc.may_pass
    else:
        found = _of_hub(model, exc) or _of_system(exc) or _of_files(exc)
        if found is None:
            return None
        reason, may_pass = found
    prefix = f"model {model!r} cannot be loaded: "
    return ModelLoadError(prefix + one_line(reason).removeprefix(prefix), may_pass=may_pass)


def one_line(text: object) -> str:
    """Return the text with line breaks and runs of blanks as single blanks."""
    return " ".join(str(text).split())


def _of_hub(model: str, exc: Exception) -> tuple[str, bool] | None:
    """Explain what huggingface_hub raises: (reason, whether it may pass)."""
    page = f"{constants.ENDPOINT}/{model}"
    if isinstance(exc, GatedRepoError):
        return f"it is gated: accept its terms on {page} and set HF_TOKEN to a token of that account", False
    if isinstance(exc, RevisionNotFoundError):
        return f"it has no such revision: see {page}/tree/main for its branches and tags", False
    if isinstance(exc, RepositoryNotFoundError):
        return (
            f"{page} does not exist, or it is private: check the name, or set HF_TOKEN to a token"
            " that may read it"
        ), False
    if isinstance(exc, HFValidationError):
        return "it is neither a directory here nor a hub id such as owner/name", False
    if isinstance(exc, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        return _not_in_cache(exc)
    if isinstance(exc, HfHubHTTPError) and not isinstance(exc, EntryNotFoundError):
        return _of_status(exc.response.status_code)
    if _is_of_network(exc):
        return _unreachable(exc), True
    return None


def _not_in_cache(exc: Exception) -> tuple[str, bool]:
    if constants.HF_HUB_OFFLINE:
        return (
            f"it is not whole in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set:"
            " start once without HF_HUB_OFFLINE, or set HF_HOME to where it is"
        ), False
    for cause in _causes(exc):
        if isinstance(cause, HfHubHTTPError):
            return _of_status(cause.response.status_code)
    return _unreachable(next(reversed(list(_causes(exc))))), True


def _of_status(status: int) -> tuple[str, bool]:
    if status in (401, 403):
        return f"{constants.ENDPOINT} refuses HF_TOKEN ({status}): make a token that may read it", False
    return f"{constants.ENDPOINT} answers {status}: start again later", status == 429 or status >= 500


def _unreachable(exc: BaseException) -> str:
    return (
        f"{constants.ENDPOINT} cannot be reached ({type(exc).__name__}: {exc}): what has arrived is kept;"
        " start again, or set HF_HUB_OFFLINE=1 if it is in the cache"
    )


def _is_of_network(exc: BaseException) -> bool:
    """Return whether the connection failed: of whichever client, and by the system's own errors."""
    if isinstance(exc, (ConnectionError, TimeoutError)):
        return True
    modules = {cls.__module__.partition(".")[0] for cls in type(exc).__mro__}
    return bool(modules & {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "hf_xet"})


def _of_system(exc: Exception) -> tuple[str, bool] | None:
    """Explain disks, memory and packages."""
    for cause in _causes(exc):
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return (
                f"no space is left on the disk of {constants.HF_HUB_CACHE}: free some, or set HF_HOME to"
                " another disk"
            ), False
        if isinstance(cause, OSError) and cause.errno in _NOT_WRITABLE:
            name = cause.filename or constants.HF_HUB_CACHE
            return f"{name}: {cause.strerror}; set HF_HOME to a folder that can be written", False
        if isinstance(cause, (torch.OutOfMemoryError, MemoryError)) or (
            isinstance(cause, RuntimeError) and any(sign in str(cause) for sign in _NO_MEMORY)
        ):
            return "there is not enough memory: take a smaller or a quantised model, or another device", False
    if isinstance(exc, ImportError):
        return _of_import(exc), False
    return None


def _of_import(exc: ImportError) -> str:
    """Return the `pip install` that the message names, or one for the module that is missing."""
    text = one_line(exc)
    named = re.search(r"pip install [^`'\"]+", text)
    what = exc.name.partition(".")[0] if exc.name else None
    command = named[0].rstrip(" .)") if named else f"pip install {what}" if what else ""
    return f"a package is missing: {command} ({text})" if command else f"a package is missing: {text}"


def _of_files(exc: Exception) -> tuple[str, bool] | None:
    """Explain what is wrong with the model itself: it stays wrong."""
    if isinstance(exc, SafetensorError):
        return f"its weights are broken or cut short ({exc}): download it again", False
    if isinstance(exc, (ValueError, OSError)):
        return one_line(exc), False
    return None


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception and what it was raised from, outermost first."""
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__
