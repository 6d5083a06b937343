"""The same under gevent: `python -m tests.chaos.under_gevent --fleet 10`.

All of the process is patched, the exchanges and the network with it.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()  # before anything else is imported
    from tests.chaos.__main__ import main

    sys.exit(main())
