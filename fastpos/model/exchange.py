"""Everything that is particular to this exchange, in one place.

The software behind it is a white label with deployments that differ in small ways; one that differs
here is a change in this file.
"""

from __future__ import annotations

__all__ = ["CONNECTED", "CREDENTIAL_PLACES", "DEFAULT_URL", "SUBSCRIBED"]

# --- the conversation ---------------------------------------------------------------------------

DEFAULT_URL = "wss://futuresws.exchange1.com/position_order/ws"

# What the server says when the connection is open, and when a subscription is accepted.
CONNECTED = "connect success"
SUBSCRIBED = "sub success"

# The constructor's argument -> HTTP header of the upgrade, key in the subscribe message.
CREDENTIAL_PLACES = {"token": ("token", "token"), "api_key": ("api-key", "apiKey")}
