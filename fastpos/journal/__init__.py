"""A stream's own record: what came, written as it came, read back, and replayed.

* journal.py: `Journal`, a folder that streams write in, and writer.py its thread; recorder.py is a
  stream's part of it.
* segments.py: its files. format.py: their lines.
* reader.py: `read`. replay.py: `replay`, which has a stream do again what it did.

Streams know the journal and the recorder only; `replay` makes streams, and stands above them.
"""

from ..errors import JournalError
from .journal import Journal
from .reader import Record, read
from .replay import replay

__all__ = ["Journal", "JournalError", "Record", "read", "replay"]
