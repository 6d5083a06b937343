"""What a type checker makes of the public names. Nobody runs this: `mypy --strict` reads it.

Each ignored error is one that it has to find, as it complains of an ignore that is of no use.
"""

from decimal import Decimal

from fastpos import FastposError, Order, Position, PositionStream, ReconnectPolicy
from fastpos.runtime.callbacks import Handlers


def on_order(event: Order) -> None: ...
def on_position(event: Position) -> None: ...
def on_anything(event: object) -> int:
    return 1


def on_error(error: FastposError) -> None: ...


# --- right ----------------------------------------------------------------------------------------

stream = PositionStream("ws://localhost", token=lambda: "x", broker=1, on_order=on_order)
stream = PositionStream(api_key="x", broker=1, name="a", number=Decimal, proxy=None, headers={})
stream = PositionStream(api_key="x", broker=1, reconnect=None, on_error=on_error)
stream = PositionStream(api_key="x", broker=1, reconnect=ReconnectPolicy(), on_order=on_anything)
stream.on_order = on_order
stream.on_order = None
handlers: Handlers[Order] = stream.on_order


@stream.on_order
def decorated(event: Order) -> str:
    return event.order_id or stream.name


text: str = decorated(Order(order_id="1"))


class Bot(PositionStream):
    def __init__(self) -> None:
        super().__init__(api_key="x", broker=1)


# --- wrong ----------------------------------------------------------------------------------------

PositionStream(api_key="x")  # type: ignore[call-arg]
PositionStream("ws://localhost", "x", broker=1)  # type: ignore[call-arg, arg-type]
PositionStream(api_key="x", broker="1")  # type: ignore[arg-type]
PositionStream(api_key="x", broker=1, ping_interval="30")  # type: ignore[arg-type]
PositionStream(api_key="x", broker=1, on_order=on_position)  # type: ignore[arg-type]
PositionStream(api_key="x", broker=1, on_orders=on_order)  # type: ignore[call-arg]
stream.on_order = on_position  # type: ignore[assignment]
stream.on_orders = on_order  # type: ignore[attr-defined]
stream.ping_interval  # type: ignore[attr-defined]  # noqa: B018
