"""What all streams of a trial are set to, and the TLS between them and their exchanges."""

from __future__ import annotations

import functools
import ssl
import tempfile
from pathlib import Path

from tests.support.certificates import make_certificates

# The streams' settings, seconds; the rest are their defaults.
PING_INTERVAL = PONG_TIMEOUT = CONNECT_TIMEOUT = SUBSCRIBE_TIMEOUT = 1.0
SETTINGS = {
    "ping_interval": PING_INTERVAL,
    "pong_timeout": PONG_TIMEOUT,
    "connect_timeout": CONNECT_TIMEOUT,
    "subscribe_timeout": SUBSCRIBE_TIMEOUT,
}

EVENTS_PER_S = 50

MARGIN = 1.0
"""What the promises leave to a busy machine, seconds."""


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    with tempfile.TemporaryDirectory() as directory:
        certificates = make_certificates(Path(directory))
        return certificates.good.context(), certificates.client_context()
