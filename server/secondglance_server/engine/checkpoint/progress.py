"""Progress in the log instead of bars: a line for each tenth of a download or of a load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, Self

from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
    set_tqdm_hook,
)

_log = logging.getLogger("secondglance_server.engine")


class Tenths:
    """A log line each time another tenth of `total` is done; `facts` stand in every line."""

    def __init__(self, event: str, total: int, **facts: Any) -> None:
        self._event, self._total, self._facts = event, max(1, total), facts
        self._said = 0

    def reach(self, done: float) -> None:
        """Log the tenth that `done` of `total` has reached, unless it was said before."""
        percent = min(100, int(10 * done / self._total) * 10)
        if percent > self._said:
            self._said = percent
            _log.info(self._event, extra={**self._facts, "percent": percent})


class _Bar:
    """What libraries use of a tqdm bar; it counts, shows nothing, and tells `on_update` how much is done."""

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        on_update: Callable[[float], None],
        total: float | None = None,
        initial: float = 0,
        **_: Any,
    ) -> None:
        self.iterable = iterable
        self.total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self.n = initial
        self._on_update = on_update

    def update(self, n: float | None = 1) -> None:
        """Count and report."""
        self.n += n or 0
        self._on_update(self.n)

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable or ():
            yield item
            self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return nothing to do for whatever else a bar can show."""
        if name.startswith("_") or name in ("get_lock", "set_lock"):
            raise AttributeError(name)
        return lambda *_, **__: None


class SilentBar(_Bar):
    """A bar of what is not worth a line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, on_update=lambda _: None, **kwargs)


def download_bar(event: str, total_bytes: int, **facts: Any) -> type[Any]:
    """Return a class for huggingface_hub's `tqdm_class` whose bars of bytes become log lines."""
    tenths = Tenths(event, total_bytes, **facts, bytes=total_bytes)

    class DownloadBar(_Bar):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            counts_bytes = kwargs.get("unit") == "B"  # others count files
            super().__init__(*args, on_update=lambda n: tenths.reach(n * counts_bytes), **kwargs)

    return DownloadBar


@contextmanager
def logged_loading(model: str) -> Iterator[None]:
    """While it lasts, transformers' bars show nothing, and its loading of weights becomes log lines."""
    was_enabled = is_progress_bar_enabled()
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped

    def bar(_factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Bar:
        if kwargs.get("desc") != "Loading weights":
            return SilentBar(*args, **kwargs)
        shown = _Bar(*args, on_update=lambda n: tenths.reach(n), **kwargs)
        tenths = Tenths("model loading", int(shown.total or 1), model=model)
        return shown

    previous = set_tqdm_hook(bar)
    try:
        yield
    finally:
        set_tqdm_hook(previous)
        if was_enabled:
            enable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
