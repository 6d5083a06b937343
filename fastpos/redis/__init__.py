"""Beyond one machine: events to Redis or Valkey, and from there into functions elsewhere.

* publisher.py: `Publisher`, to which a stream hands over what it is sent.
* remote.py: `RemoteStream`, the same functions, events and properties as a `PositionStream`;
  following.py is what it makes of what entries.py reads, and member.py a group's matter.
* scripts.py: the keys, and what the server does in one step. connecting.py: the URL.

It needs the extra "redis".
"""

from ..errors import PublisherError
from .publisher import Publisher
from .remote import RemoteStream

__all__ = ["Publisher", "PublisherError", "RemoteStream"]
