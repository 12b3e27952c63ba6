"""Key/value caches that a prefix can stay in: room is reserved behind it, suffixes are written there and
taken off again.

transformers' own dynamic layer concatenates, which copies the whole prefix for every token. Here a layer is
one buffer with a length, so going back to the prefix is setting a number. Buffers start as zeros: attention
under a mask multiplies what lies behind the length by nothing, and nothing times garbage may be NaN. Knows no
model and no picture. Layers that look through a window are kept whole too: under a windowed mask they give
the same answers. Not covered: layers that keep a state of another kind (recurrent ones, convolutions, layers
that share another's keys); `full_layers` refuses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

SLACK_TOKENS = 96  # room behind a stored prefix: a question and a short answer fit without copying
_CAPACITY_STEP = 64  # few different capacities, so that work prepared for one shape is used again


class RoomyLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # its base registers subclasses untyped
    """One layer's keys and values [B, heads, capacity, width], of which the first `length` are set."""

    is_croppable = True
    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self.capacity = capacity
        self.length = 0

    @classmethod
    def over(cls, keys: Tensor, values: Tensor, length: int) -> RoomyLayer:
        """A layer in buffers that already hold `length` tokens."""
        layer = cls(keys.shape[2])
        layer.keys, layer.values, layer.length, layer.is_initialized = keys, values, length, True
        return layer

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values with the room behind them."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(batch, heads, self.capacity, width)
        self.values = value_states.new_zeros(batch, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.buffers
        end = self.length + key_states.shape[2]
        assert end <= self.capacity, f"{end} tokens in a cache of {self.capacity}"
        keys[:, :, self.length : end] = key_states
        values[:, :, self.length : end] = value_states
        self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


@dataclass(frozen=True, slots=True, eq=False)
class PrefixStates:
    """A prefix's keys and values for every layer: [1, heads, capacity, width], the first `length` of them
    set."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    length: int

    @property
    def capacity(self) -> int:
        return int(self.layers[0][0].shape[2])

    @property
    def n_bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


def full_layers(text_config: Any) -> tuple[int, ...]:
    """Return the indices of the layers that see the whole context; others look through a window or chunks.

    transformers' own choice of cache layers decides. Raises ValueError for a layer whose state is not keys
    and values, one for each token.
    """
    full: list[int] = []
    for index, layer in enumerate(DynamicCache(config=text_config).layers):
        if type(layer) is DynamicLayer:
            full.append(index)
        elif type(layer) is not DynamicSlidingWindowLayer:
            raise ValueError(
                f"text model {text_config.model_type!r} is not supported: layer {index} keeps a "
                f"{type(layer).__name__}, and prefixes are shared as keys and values only"
            )
    return tuple(full)


def empty_cache(n_layers: int, capacity: int) -> Cache:
    """With room for `capacity` tokens or some more."""
    return Cache(layers=[RoomyLayer(rounded_up(capacity)) for _ in range(n_layers)])


def resume(prefixes: Sequence[PrefixStates], room: int, *, in_place: bool = True) -> Cache:
    """A cache that holds the prefixes (of equal length), one a row, with `room` for more tokens.

    One prefix with enough room behind it is continued in place, if it may be: the cache writes into its
    buffers, past its length.
    """
    length = prefixes[0].length
    assert all(prefix.length == length for prefix in prefixes)
    if in_place and len(prefixes) == 1 and prefixes[0].capacity >= length + room:
        return Cache(layers=[RoomyLayer.over(keys, values, length) for keys, values in prefixes[0].layers])
    capacity = rounded_up(length + room)
    layers: list[Any] = []
    for index in range(len(prefixes[0].layers)):
        buffers = []
        for part in (0, 1):
            sources = [prefix.layers[index][part] for prefix in prefixes]
            _, heads, _, width = sources[0].shape
            buffer = sources[0].new_zeros(len(sources), heads, capacity, width)
            for row, source in enumerate(sources):
                buffer[row, :, :length] = source[0, :, :length]
            buffers.append(buffer)
        layers.append(RoomyLayer.over(buffers[0], buffers[1], length))
    return Cache(layers=layers)


def keep_prefix(cache: Cache, row: int, length: int) -> PrefixStates:
    """The first `length` tokens of one row: the cache's own buffers where they fit well, a copy with slack
    elsewhere."""
    layers: list[tuple[Tensor, Tensor]] = []
    for layer in cache.layers:
        assert isinstance(layer, RoomyLayer)
        keys, values = layer.buffers
        if keys.shape[0] > 1 or keys.shape[2] > length + 2 * SLACK_TOKENS + _CAPACITY_STEP:
            keys, values = _copied(keys, row, length), _copied(values, row, length)
        layers.append((keys, values))
    return PrefixStates(tuple(layers), length)


def _copied(states: Tensor, row: int, length: int) -> Tensor:
    _, heads, _, width = states.shape
    buffer = states.new_zeros(1, heads, rounded_up(length + SLACK_TOKENS), width)
    buffer[0, :, :length] = states[row, :, :length]
    return buffer


def rounded_up(capacity: int) -> int:
    return -(-capacity // _CAPACITY_STEP) * _CAPACITY_STEP
