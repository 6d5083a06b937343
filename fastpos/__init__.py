"""A futures account's positions, balances, orders and triggers, pushed into plain functions.

>>> from fastpos import PositionStream
>>> stream = PositionStream(api_key="...", broker=1003, on_position=print)
>>> stream.run_forever()                                              # doctest: +SKIP
"""

from types import ModuleType as _Module
from typing import TYPE_CHECKING

from . import _c as _c  # first: it loads the compiled modules
from .errors import *
from .fleet import Fleet as Fleet
from .fleet import FleetStats as FleetStats
from .model.events import *
from .model.snapshot import Snapshot as Snapshot
from .reconnect import ReconnectPolicy as ReconnectPolicy
from .runtime.stats import Stats as Stats
from .stream import PositionStream as PositionStream
from .wire.decoder import decode as decode
from .wire.inflate import inflater as inflater

__version__ = "0.1.0"  # nowhere else: pyproject.toml reads it here

if not TYPE_CHECKING:  # which goes by the imports, as this does
    __all__ = [
        name
        for name, value in globals().items()
        if not name.startswith("_") and name != "TYPE_CHECKING" and not isinstance(value, _Module)
    ]
