"""Every case of the Autobahn suite: fastpos' WebSocket layer echoes, the fuzzing server judges."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import pytest

from fastpos.wire.frames import TEXT
from fastpos.wire.inflate import new_splitter
from tests.conformance.fuzzingserver import FuzzingServer, NotAvailable, install
from tests.support.connections import Client, Ended

pytestmark = pytest.mark.conformance

AGENT = "fastpos"
TIMEOUT = 60.0
"""Seconds for an opening handshake, for silence, and for each send."""
MAX_MESSAGE_SIZE = 32 * 1024 * 1024
"""The largest message of the suite has 16 MiB."""


def talk(url: str, echo: bool) -> list[bytes]:
    """What the server says until it ends the connection, said back to it if it is a case.

    Raises:
        FastposError: what ended it, unless that was a closing handshake.
    """
    heard: list[bytes] = []
    client = Client(
        url,
        connect_timeout=TIMEOUT,
        max_message_size=MAX_MESSAGE_SIZE,
        splitter=new_splitter(),  # as a stream has it; no message of the suite is gzip
    )
    try:
        client.open()
        reads = -1
        while client.reads > reads:  # else there was silence
            reads = client.reads
            for opcode, content in client.receive(TIMEOUT):
                payload = content.encode() if isinstance(content, str) else content
                if echo:
                    client.send(payload, opcode, TIMEOUT)
                else:
                    assert opcode == TEXT
                    heard.append(payload)
        raise TimeoutError("the server is silent")
    except Ended as ended:
        if ended.error is not None:
            raise ended.error from None
        return heard
    finally:
        client.end()


# The first run installs the server, and the cases of group 9 move hundreds of megabytes.
@pytest.mark.timeout(1200)
def test_no_case_fails_and_every_connection_ends_cleanly(tmp_path: Path) -> None:
    try:
        install()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    with FuzzingServer(tmp_path) as server:
        count = int(b"".join(talk(f"{server.url}/getCaseCount", echo=False)))
        for case in range(1, count + 1):
            try:
                talk(f"{server.url}/runCase?{urlencode({'case': case, 'agent': AGENT})}", echo=True)
            except Exception as error:
                # Many cases are violations of the protocol: the server alone knows what is right.
                print(f"case {case}: {type(error).__name__}: {error}")
        talk(f"{server.url}/updateReports?agent={AGENT}", echo=False)
        judged, bad = server.bad(AGENT)
        assert judged == count > 200
        assert not bad, server.log()[-1000:]
