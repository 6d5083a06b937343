"""What a type checker makes of the public names. Nobody runs this: `mypy --strict` reads it.

Each ignored error is one that it has to find, as it complains of an ignore that is of no use.
"""

from decimal import Decimal

from typing_extensions import assert_type

from fastpos import (
    AttachedOrder,
    Balance,
    FastposError,
    Order,
    Position,
    PositionStream,
    ReconnectPolicy,
)
from fastpos.redis import RemoteStream
from fastpos.runtime.callbacks import Handlers


def on_order(event: Order) -> None: ...
def on_position(event: Position) -> None: ...
def on_anything(event: object) -> None: ...
def on_error(error: FastposError) -> None: ...


# --- right ----------------------------------------------------------------------------------------

stream = PositionStream("ws://localhost", token=lambda: "x", broker=1, on_order=on_order)
stream = PositionStream(api_key="x", broker=1, name="a", number=Decimal, proxy=None, headers={})
stream = PositionStream(api_key="x", broker=1, reconnect=None, on_error=on_error)
stream = PositionStream(api_key="x", broker=1, reconnect=ReconnectPolicy(), on_order=on_anything)
stream.on_order = on_order
stream.on_order = None
assert_type(stream.on_order, Handlers[Order])
assert_type(stream.balances, dict[str, Balance])


@stream.on_order
def decorated(event: Order) -> int:
    return 1


remote = RemoteStream("redis://localhost", "alice", group="risk", on_order=on_order)
remote = RemoteStream("redis://localhost", name="alice", number=Decimal, dispatch="thread")
assert_type(remote.on_order, Handlers[Order])
stream = remote

order = Order(order_id="1", price=2.5, take_profit=None)
assert_type(decorated(order), int)
assert_type(order.order_id, str | None)
assert_type(order.stop_loss, AttachedOrder | None)
if order.price is not None:
    cost: float = order.price * 2


class Bot(PositionStream):
    def __init__(self) -> None:
        super().__init__(api_key="x", broker=1)

    def on_order(self, order: Order) -> None:  # type: ignore[override]
        """A checker can't know that the stream's attribute is another than the class's."""


# --- wrong ----------------------------------------------------------------------------------------

PositionStream(api_key="x")  # type: ignore[call-arg]
PositionStream("ws://localhost", "x", broker=1)  # type: ignore[call-arg, arg-type]
PositionStream(api_key="x", broker="1")  # type: ignore[arg-type]
PositionStream(api_key="x", broker=1, ping_interval="30")  # type: ignore[arg-type]
PositionStream(api_key="x", broker=1, on_order=on_position)  # type: ignore[arg-type]
PositionStream(api_key="x", broker=1, on_orders=on_order)  # type: ignore[call-arg]
RemoteStream("redis://localhost")  # type: ignore[call-arg]
RemoteStream("redis://localhost", "alice", on_order=on_position)  # type: ignore[arg-type]
RemoteStream("redis://localhost", "alice", broker=1)  # type: ignore[call-arg]
stream.on_order = on_position  # type: ignore[assignment]
stream.on_orders = on_order  # type: ignore[attr-defined]
stream.ping_interval  # type: ignore[attr-defined]  # noqa: B018
order.price = 3.0  # type: ignore[misc]
Order(prize=1)  # type: ignore[call-arg]
Order("1")  # type: ignore[call-arg, arg-type]
Position(id="x")  # type: ignore[arg-type]
