"""An exchange in a box, for demos and tests: `Exchange` serves the real protocol over real sockets.

It knows nothing of the rest of fastpos, so it judges the client without sharing its mistakes.
It needs the `websockets` library: `pip install "fastpos[simulator]"`.

The files, in the order in which a push meets them: `_exchange.py` (what a test says), `_account.py`
(what is true), `_wire.py` (bytes), `_server.py` (who gets them), `_link.py` (the socket);
`_rest.py` serves the same truth over HTTP, `_faults.py` says what goes wrong.
"""

try:
    import websockets as _websockets
except ImportError as _error:  # pragma: no cover - the extra is there in every test run
    raise ImportError(
        'fastpos.simulator needs the websockets library: pip install "fastpos[simulator]"'
    ) from _error

from ._exchange import Exchange
from ._link import Connection

__all__ = ["Connection", "Exchange"]

del _websockets
