from collections.abc import Callable
from typing import Any

from ..model.events import Event
from ..model.fields import NumberType
from ._inflate import Inflater

BytesLike = bytes | bytearray | memoryview

class Decoder:
    def __new__(
        cls,
        inflater: Inflater,
        loads: Callable[[bytes], Any],
        channel: str,
        kinds: dict[str, tuple[Any, ...]],
        slots: tuple[Any, Any, Any, Any],
        decode: Callable[[bytes, NumberType], Event],
        event_from: Callable[[bytes, int, NumberType], Event],
        max_size: int,
        max_depth: int,
        /,
    ) -> Decoder: ...
    def decode(self, data: BytesLike, number: NumberType, /) -> Event: ...
    def event_from(self, text: bytes, received_ns: int, number: NumberType, /) -> Event: ...

class Getter:
    def __new__(
        cls,
        get: Callable[[Any], Any],
        kind: str,
        key: str,
        names: dict[Any, str] | None,
        record: type,
        wire: Any,
        number: Any,
        /,
    ) -> Getter: ...
    def __call__(self, record: Any, /) -> Any: ...

class Deliverer:
    account_updates: int
    adl_prices: int
    orders: int
    muted: bool
    halted: bool
    def __new__(
        cls,
        decoder: Decoder,
        book: Any,
        lock: Any,
        callbacks: Any,
        times: Any,
        keys: dict[str, str],
        classes: dict[str, type],
        handle: Callable[[Any], object],
        raised: Callable[[Any, Any, Any, BaseException], object],
        /,
    ) -> Deliverer: ...
    def deliver(self, texts: list[bytes], start: int, received_ns: int, /) -> int: ...
