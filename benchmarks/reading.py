"""Reads everything a push says, from the wire's dict or from an event.

An event translates an attribute when it is asked for it, so "decoded" alone would leave work
out; and a dict still holds amounts as strings, so a program that computes has that work too.
Both readers therefore end with the same values, numbers where numbers are meant, in tuples of
the same shape.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["reader"]


def _account_dict(message: dict[str, Any]) -> object:
    body = message["d"]
    p = body["p"]
    return (
        (message["uid"], int(message["t"]), body["et"]),
        [(a["c"], float(a["an"]), float(a["la"]), float(a["pn"])) for a in body["a"]],
        (p["id"], p["cid"], p["cn"], p["con"], p["pt"], p["l"], p["pv"], p["op"], p["rp"]),
        (p["hm"], p["ra"], p["s"], p["mr"], p["oa"], p["ccv"]),
    )


def _account_event(event: Any) -> object:
    p = event.position
    return (
        (event.uid, event.time_ms, event.event_type),
        [(b.coin, b.available, b.frozen, b.isolated_margin) for b in event.balances.values()],
        (p.id, p.contract_id, p.contract_name, p.contract_alias, p.margin_mode, p.leverage,
         p.volume, p.open_price, p.liquidation_price),
        (p.isolated_margin, p.realized_pnl, p.side, p.margin_rate, p.open_margin,
         p.closable_volume),
    )  # fmt: skip


def _adl_dict(message: dict[str, Any]) -> object:
    return message["uid"], [
        (t["id"], t["al"], t["rp"], t["ha"], t["mr"], t["bo"], t["so"], t["lt"], t["tp"])
        for t in message["l"]
    ]


def _adl_event(event: Any) -> object:
    return event.uid, [
        (t.id, t.adl_level, t.liquidation_price, t.margin, t.margin_rate,
         t.best_bid, t.best_ask, t.last_price, t.mark_price)
        for t in event.ticks
    ]  # fmt: skip


def _order_dict(message: dict[str, Any]) -> object:
    o = message["order"]
    oto = o["otoOrder"]
    return (
        (o["orderId"], o["contractId"], o["contractName"], o["symbol"], o["contractSide"]),
        (o["type"], o["price"], o["pricePrecision"], o["volume"], o["dealVolume"]),
        (o["avgPrice"], o["orderAction"]),
        (oto["takerProfitStatus"], oto["takerProfitTrigger"]),
        (oto["takerProfitPrice"], oto["takerProfitTriggerId"]),
        (oto["stopLossStatus"], oto["stopLossTrigger"]),
        (oto["stopLossPrice"], oto["stopLossTriggerId"]),
    )


def _order_event(event: Any) -> object:
    profit, loss = event.take_profit, event.stop_loss
    return (
        (event.order_id, event.contract_id, event.contract_name, event.symbol, event.side),
        (event.type, event.price, event.price_precision, event.volume, event.filled_volume),
        (event.avg_price, event.action),
        (profit.active, profit.trigger_price),
        (profit.price, profit.trigger_order_id),
        (loss.active, loss.trigger_price),
        (loss.price, loss.trigger_order_id),
    )


def reader(frame: str, *, of_events: bool) -> Callable[[Any], object]:
    """The function that reads all of what `frame` decodes to."""
    return {
        "account_update_create": (_account_dict, _account_event),
        "adl_price": (_adl_dict, _adl_event),
        "order": (_order_dict, _order_event),
    }[frame][of_events]
