"""The truth: one user's positions, balances, orders and triggers, and the pushes that tell of it.

Each method changes the truth and returns the push for it. Nothing here is locked or sent.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

Number = int | float | Decimal
Message = dict[str, Any]

# What a caller may name a field, and what the wire calls it.
POSITION_KEYS = {
    "contract_id": "cid",
    "margin_mode": "pt",
    "contract_name": "cn",
    "contract_alias": "con",
    "leverage": "l",
    "volume": "pv",
    "open_price": "op",
    "liquidation_price": "rp",
    "isolated_margin": "hm",
    "realized_pnl": "ra",
    "side": "s",
    "margin_rate": "mr",
    "open_margin": "oa",
    "closable_volume": "ccv",
}
TICK_KEYS = {
    "adl_level": "al",
    "margin": "ha",
    "best_bid": "bo",
    "best_ask": "so",
    "last_price": "lt",
    "mark_price": "tp",
}
ORDER_KEYS = {
    "contract_id": "contractId",
    "contract_name": "contractName",
    "symbol": "symbol",
    "side": "contractSide",
    "type": "type",
    "price": "price",
    "price_precision": "pricePrecision",
    "filled_volume": "dealVolume",
    "volume": "volume",
    "avg_price": "avgPrice",
    "oto_order": "otoOrder",
}
# Sent only where they were given: some deployments do.
OPTIONAL_ORDER_KEYS = {
    "order_side": "side",
    "open_close": "open",
    "trade_fee": "tradeFee",
    "realized_pnl": "realizedAmount",
}
TRIGGER_KEYS = {
    "type": "type",
    "side": "side",
    "trigger_price": "triggerPrice",
    "price": "price",
    "volume": "volume",
    "trigger_type": "triggerType",
    "created_ms": "ctime",
    "expires_ms": "expireTime",
}
MARGIN_MODES = {"CROSS": 1, "ISOLATED": 2}
# What REST calls the codes of an order's type.
ORDER_TYPES = {1: "LIMIT", 2: "MARKET", 3: "IOC", 4: "FOK", 5: "POST_ONLY"}


def wire_fields(fields: Mapping[str, Any], *names: Mapping[str, str]) -> Message:
    """`fields` under the wire's names; they may be named either way. Raises `TypeError`."""
    known = {friendly: wire for table in names for friendly, wire in table.items()}
    known.update({wire: wire for wire in list(known.values())})
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise TypeError(f"unknown field: {', '.join(unknown)} (known: {', '.join(known)})")
    wire = {known[name]: value for name, value in fields.items()}
    if wire.get("pt") in MARGIN_MODES:
        wire["pt"] = MARGIN_MODES[wire["pt"]]
    return wire


def amount(value: Number | str) -> str:
    """An amount as the wire writes it: a decimal string, without an exponent."""
    return value if isinstance(value, str) else format(exact(value), "f")


def exact(value: Number | str) -> Decimal:
    """The decimal that `value` shows when printed."""
    return value if isinstance(value, Decimal) else Decimal(str(value))


def like(value: Decimal, model: Number) -> Number:
    """`value` in the type of `model`; a whole number stays one."""
    if isinstance(model, Decimal):
        return value
    return int(value) if value == value.to_integral_value() else float(value)


class Account:
    """One user's account; see the module. `now_ms` is the exchange's clock."""

    def __init__(self, uid: int, broker: int, now_ms: Callable[[], int]) -> None:
        self.uid = uid
        self.broker = broker
        self.positions: dict[int, Message] = {}
        self.ticks: dict[int, Message] = {}
        """What only ticks tell of each position."""
        self.balances: dict[str, Message] = {}
        self.orders: dict[str, Message] = {}
        self.triggers: dict[str, Message] = {}
        self.closed_volume: dict[int, Decimal] = {}
        """By position: what was sold off of it while it was held."""
        self.times: dict[int, tuple[int, int]] = {}
        """By position: when it was opened and last changed, ms."""
        self.order_times: dict[str, int] = {}
        """By order: when it was placed, ms."""
        self._now_ms = now_ms
        self._contract_ids: dict[str, int] = {}
        self._position_ids = itertools.count(90762)
        self._order_ids = itertools.count(2094043912705377045)
        self._trigger_ids = itertools.count(1322738336974712854)

    def copy(self) -> Message:
        """A deep copy of the whole truth, as wire objects by id."""
        return copy.deepcopy(
            {
                "positions": self.positions,
                "ticks": self.ticks,
                "balances": self.balances,
                "orders": self.orders,
                "triggers": self.triggers,
            }
        )

    # Positions and balances.

    def open_position(self, position_id: int | None, fields: Message) -> tuple[int, Message]:
        """A new position; `fields` named either way, defaults for the rest."""
        given = wire_fields(fields, POSITION_KEYS, TICK_KEYS)
        if position_id is None:
            position_id = next(i for i in self._position_ids if i not in self.positions)
        elif position_id in self.positions:
            raise ValueError(f"position {position_id} is open already")
        name, price, volume = given["cn"], given["op"], given["pv"]
        margin = given.get("hm", 98.22008325596366)
        position = {
            "id": position_id,
            "cid": self._contract_id(name),
            "pt": 1,
            "cn": name,
            "con": "".join(name.split("-")[1:]) + "-EXUSD",
            "l": 20,
            "pv": volume,
            "op": price,
            "rp": like(round(exact(price) * Decimal("0.69"), 1), price),
            "hm": margin,
            "ra": 0,
            "s": given["s"],
            "mr": 0.0847015132701974,
            "oa": 0.0847015132701974,
            "ccv": volume,
        }
        tick = {
            "al": 1,
            "ha": margin,
            "bo": like(exact(price) - Decimal("0.1"), price),
            "so": like(exact(price) + Decimal("0.1"), price),
            "lt": price,
            "tp": price,
        }
        self.positions[position_id] = {k: given.get(k, v) for k, v in position.items()}
        self.ticks[position_id] = {key: given.get(key, value) for key, value in tick.items()}
        self.closed_volume[position_id] = Decimal(0)
        self.times[position_id] = (self._now_ms(), self._now_ms())
        return position_id, self._update("CREATE", self.positions[position_id])

    def update_position(self, position_id: int, fields: Message) -> Message | None:
        """Changes a position; None when nothing changed that an UPDATE tells of."""
        given = wire_fields(fields, POSITION_KEYS, TICK_KEYS)
        position, tick = self.positions[position_id], self.ticks[position_id]
        tick.update({key: value for key, value in given.items() if key in tick})
        changed = {
            key: value for key, value in given.items() if key in position and position[key] != value
        }
        if not changed:
            return None
        if "pv" in changed:
            sold = exact(position["pv"]) - exact(changed["pv"])
            self.closed_volume[position_id] += max(sold, Decimal(0))
        position.update(changed)
        self.times[position_id] = (self.times[position_id][0], self._now_ms())
        return self._update("UPDATE", {"id": position_id} | changed)

    def close_position(self, position_id: int) -> Message:
        """Takes a position out."""
        del self.positions[position_id]
        for table in (self.ticks, self.closed_volume, self.times):
            del table[position_id]
        return self._update("DELETE", {"id": position_id})

    def set_price(self, contract_name: str, last: Number, spread: Number) -> None:
        """Moves what ticks say of all positions in one contract."""
        for position_id, position in self.positions.items():
            if position["cn"] == contract_name:
                half = exact(spread) / 2
                self.ticks[position_id] |= {
                    "bo": like(exact(last) - half, last),
                    "so": like(exact(last) + half, last),
                    "lt": last,
                    "tp": last,
                }

    def tick(self) -> Message | None:
        """The per-second tick; None when no position is held."""
        if not self.positions:
            return None
        ticks = []
        for position_id, position in self.positions.items():
            tick = self.ticks[position_id]
            shared = {"rp": position["rp"], "ha": tick["ha"], "mr": position["mr"]}
            ticks.append({"id": position_id, "al": tick["al"]} | shared | tick)
        return {"channel": "ADL_PRICE", "uid": self.uid, "l": ticks}

    def set_balance(self, coin: str, amounts: Mapping[str, Number | str | None]) -> Message:
        """Sets those of `an`, `la` and `pn` that are not None."""
        balance = self.balances.setdefault(coin, {"c": coin, "an": "0", "la": "0", "pn": "0"})
        balance.update({key: amount(v) for key, v in amounts.items() if v is not None})
        return self._update("DEFAULT", None)

    def _update(self, event_type: str, position: Message | None) -> Message:
        data: Message = {"et": event_type, "a": [dict(b) for b in self.balances.values()]}
        if position is not None:
            data["p"] = dict(position)
        return {
            "channel": "ACCOUNT_UPDATE",
            "uid": self.uid,
            "t": str(self._now_ms()),
            "d": data,
        }

    # Orders.

    def place_order(
        self, fields: Message, take_profit: Number | None, stop_loss: Number | None
    ) -> tuple[str, Message]:
        """A new open order."""
        given = wire_fields(fields, ORDER_KEYS, OPTIONAL_ORDER_KEYS)
        name = given["contractName"]
        order_id = str(next(self._order_ids))
        order = {
            "orderId": order_id,
            "contractId": self._contract_id(name),
            "contractName": name,
            "symbol": name.split("-", 1)[-1],
            "contractSide": "BUY",
            "type": 1,
            "price": 0,
            "pricePrecision": 3,
            "dealVolume": 0,
            "volume": 0,
            "avgPrice": 0,
            "otoOrder": self._attached(take_profit, stop_loss),
        }
        self.orders[order_id] = order | given
        self.order_times[order_id] = self._now_ms()
        return order_id, self._order(self.orders[order_id], "1")

    def fill_order(self, order_id: str, volume: Number | None, price: Number | None) -> Message:
        """Fills `volume` (all that is left: None); a filled order is no longer open."""
        order = self.orders[order_id]
        filled, wanted = exact(order["dealVolume"]), exact(order["volume"])
        part = wanted - filled if volume is None else exact(volume)
        if not 0 < part <= wanted - filled:
            raise ValueError(f"volume: {volume} is not in what is left, {wanted - filled}")
        at = order["price"] if price is None else price
        average = (exact(order["avgPrice"]) * filled + exact(at) * part) / (filled + part)
        order["dealVolume"] = like(filled + part, order["volume"])
        order["avgPrice"] = like(average, at)
        if filled + part == wanted:
            self._end_order(order_id)
        return self._order(order, "3")

    def change_order(self, order_id: str, fields: Message) -> Message:
        """Changes an open order's fields; one without anything left to fill is no longer open."""
        order = self.orders[order_id]
        order.update(wire_fields(fields, ORDER_KEYS, OPTIONAL_ORDER_KEYS))
        if exact(order["dealVolume"]) >= exact(order["volume"]):
            self._end_order(order_id)
        return self._order(order, "3")

    def cancel_order(self, order_id: str) -> Message:
        """Takes an order out."""
        return self._order(self._end_order(order_id), "2")

    def _end_order(self, order_id: str) -> Message:
        del self.order_times[order_id]
        return self.orders.pop(order_id)

    def _order(self, order: Message, action: str) -> Message:
        return {"channel": "order", "order": copy.deepcopy(order) | {"orderAction": action}}

    def _attached(self, take_profit: Number | None, stop_loss: Number | None) -> Message | None:
        if take_profit is None and stop_loss is None:
            return None
        attached: Message = {}
        for name, at in (("takerProfit", take_profit), ("stopLoss", stop_loss)):
            attached |= {
                f"{name}Status": at is not None,
                f"{name}Trigger": at or 0,
                f"{name}Price": 0,
                f"{name}TriggerId": None if at is None else str(next(self._trigger_ids)),
            }
        return attached

    # Triggers.

    def place_trigger(self, fields: Message) -> tuple[str, Message]:
        """A new trigger order; it expires after a fortnight unless told."""
        given = wire_fields(fields, TRIGGER_KEYS)
        trigger_id = str(next(self._trigger_ids))
        now = self._now_ms()
        trigger = {
            "triggerOrderId": trigger_id,
            "type": 1,
            "side": "buy",
            "triggerPrice": 0,
            "price": 0,
            "volume": 0,
            "triggerType": 3,
            "ctime": now,
            "expireTime": now + 14 * 24 * 3600 * 1000,
        }
        self.triggers[trigger_id] = {key: given.get(key, value) for key, value in trigger.items()}
        return trigger_id, self._trigger(self.triggers[trigger_id], "1")

    def cancel_trigger(self, trigger_id: str) -> Message:
        """Takes a trigger order out."""
        return self._trigger(self.triggers.pop(trigger_id), "2")

    def _trigger(self, trigger: Message, action: str) -> Message:
        return {"channel": "trigOrder", "trigOrder": trigger | {"orderAction": action}}

    # What REST says of the same.

    def rest_account(self) -> Message:
        """The answer of `GET /fapi/v1/account`."""
        coins = self.balances or {"USDT": {"c": "USDT", "an": "0", "la": "0", "pn": "0"}}
        held: dict[str, list[Message]] = {coin: [] for coin in coins}
        for position in self.positions.values():
            quote = str(position["cn"]).rsplit("-", 1)[-1]
            held[quote if quote in held else next(iter(held))].append(position)
        return {"account": [self._rest_coin(b, held[coin]) for coin, b in coins.items()]}

    def _rest_coin(self, balance: Message, positions: Iterable[Message]) -> Message:
        contracts: dict[str, Message] = {}
        for position in positions:
            contract = contracts.setdefault(
                position["cn"],
                {
                    "contractId": position["cid"],
                    "contractName": position["cn"],
                    "contractOtherName": position["con"],
                    "contractSymbol": str(position["cn"]).split("-", 1)[-1],
                    "positions": [],
                },
            )
            contract["positions"].append(self._rest_position(position))
        amounts = {key: exact(balance[key]) for key in ("an", "la", "pn")}
        return {
            "marginCoin": balance["c"],
            "accountNormal": amounts["an"],
            "accountLock": amounts["la"],
            "partPositionNormal": amounts["pn"],
            "totalPositionNormal": 0,
            "achievedAmount": 0,
            "unrealizedAmount": 0,
            "totalMarginRate": 0,
            "totalEquity": sum(amounts.values()),
            "partEquity": amounts["pn"],
            "totalCost": 0,
            "sumMarginRate": 0,
            "positionVos": list(contracts.values()),
        }

    def _rest_position(self, position: Message) -> Message:
        position_id = position["id"]
        created, modified = (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms / 1000))
            for ms in self.times[position_id]
        )
        return {
            "id": position_id,
            "uid": self.uid,
            "contractId": position["cid"],
            "positionType": position["pt"],
            "side": position["s"],
            "volume": position["pv"],
            "openPrice": position["op"],
            "avgPrice": position["op"],
            "closePrice": 0,
            "leverageLevel": position["l"],
            "holdAmount": position["hm"],
            # What was closed already; what is left of `volume` for closing is not this, but
            # `volume` without what waits in closing orders.
            "closeVolume": self.closed_volume[position_id],
            "pendingCloseVolume": exact(position["pv"]) - exact(position["ccv"]),
            "realizedAmount": position["ra"],
            "historyRealizedAmount": 0,
            "tradeFee": 0,
            "capitalFee": 0,
            "closeProfit": 0,
            "shareAmount": 0,
            "freezeLock": 0,
            "status": 1,
            "ctime": created,
            "mtime": modified,
            "brokerId": self.broker,
            "marginRate": position["mr"],
            "reducePrice": position["rp"],
            "openAmount": position["oa"],
        }

    def rest_open_orders(self) -> list[Message]:
        """The answer of `GET /fapi/v1/openOrders`, of all contracts."""
        return [self._rest_order(order) for order in self.orders.values()]

    def _rest_order(self, order: Message) -> Message:
        partly = exact(order["dealVolume"]) > 0
        return {
            "side": order.get("side", order["contractSide"]),
            "executedQty": order["dealVolume"],
            "orderId": int(order["orderId"]),
            "price": order["price"],
            "origQty": order["volume"],
            "avgPrice": order["avgPrice"],
            "transactTime": str(self.order_times[order["orderId"]]),
            "action": order.get("open", "OPEN"),
            "contractName": order["contractName"],
            "type": ORDER_TYPES.get(order["type"], order["type"]),
            "status": "PARTIALLY_FILLED" if partly else "NEW",
        }

    def _contract_id(self, name: str) -> int:
        return self._contract_ids.setdefault(name, 127 + len(self._contract_ids))
