"""The blocks of `docs/howto/proxies.md`: a proxy with a login, and a CA that the system lacks."""

from __future__ import annotations

import base64
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fastpos.simulator import Exchange
from tests.docs.blocks import blocks_of
from tests.support.certificates import Certificates
from tests.support.programs import ROOT, read_until, started

PAGE = ROOT / "docs" / "howto" / "proxies.md"
BLOCKS = blocks_of(PAGE)
PROGRAMS = [block.text for block in BLOCKS if block.language == "python"]
EXPORTS = dict(
    re.findall(r"export (\w+)=(\S+)", "".join(b.text for b in BLOCKS if b.language == "sh"))
)


class Proxy:
    """A proxy that lets CONNECT through; with a login, who does not give it is told 407."""

    def __init__(self, login: str = "", status: str = "200 OK") -> None:
        self._wanted = base64.b64encode(login.encode()).decode() if login else ""
        self._status = status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.targets: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        try:
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()
        except OSError:
            pass

    def _tunnel(self, client: socket.socket) -> None:
        with suppress(OSError):  # the program is killed, wherever it is in its next attempt
            self._serve_one(client)

    def _serve_one(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            byte = client.recv(1)
            if not byte:
                return
            head += byte
        target = head.split()[1].decode()
        if f"Basic {self._wanted}" not in head.decode() and self._wanted:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        else:
            client.sendall(f"HTTP/1.1 {self._status}\r\n\r\n".encode())
        if not self._status.startswith("200"):
            client.close()
            return
        self.targets.append(target)
        host, _, port = target.rpartition(":")
        server = socket.create_connection((host, int(port)))
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        _copy(client, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def exchange(certificates: Certificates) -> Iterator[Exchange]:
    with Exchange(ssl_context=certificates.good.context()) as exchange:
        yield exchange


def program(number: int, folder: Path, exchange: Exchange, **places: str) -> str:
    text = PROGRAMS[number].replace("on_ready=print,", "on_ready=print,\n    on_disconnect=print,")
    places |= {
        "wss://futuresws.exchange1.com/position_order/ws": exchange.url,
        "YOUR-API-KEY": exchange.api_key,
    }
    for there, here in places.items():
        assert there in text
        text = text.replace(there, here)
    path = folder / "program.py"
    path.write_text(text)
    return str(path)


def test_the_proxy_that_is_said_and_the_ca_of_the_environment(
    exchange: Exchange, certificates: Certificates, tmp_path: Path
) -> None:
    proxy = Proxy("user:password")
    script = program(0, tmp_path, exchange, **{"proxy.internal:3128": proxy.address})
    assert "SSL_CERT_FILE" in EXPORTS
    with started(script, SSL_CERT_FILE=str(certificates.authority)) as process:
        read_until(process, "Ready(")
    proxy.close()
    assert proxy.targets == [f"127.0.0.1:{exchange.port}"]


def test_the_proxy_of_the_environment_and_the_ca_that_is_said(
    exchange: Exchange, certificates: Certificates, tmp_path: Path
) -> None:
    proxy = Proxy()
    script = program(
        1, tmp_path, exchange, **{"/etc/ssl/company-ca.pem": str(certificates.authority)}
    )
    named = EXPORTS["https_proxy"].replace("proxy.internal:3128", proxy.address)
    with started(script, https_proxy=named, no_proxy=EXPORTS["no_proxy"]) as process:
        read_until(process, "Ready(")
    proxy.close()
    assert proxy.targets == [f"127.0.0.1:{exchange.port}"]


def test_the_table_has_what_is_said_when_it_does_not_work(
    exchange: Exchange, certificates: Certificates, tmp_path: Path
) -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.M)
    said = []
    for proxy, password in (
        (Proxy(), "password"),
        (Proxy("user:password"), "wrong"),
        (Proxy(status="403 Forbidden"), "password"),
    ):
        places = {"proxy.internal:3128": proxy.address, "password@": f"{password}@"}
        script = program(0, tmp_path, exchange, **places)
        with started(script) as process:
            said.append(read_until(process, "Disconnect("))
        proxy.close()
    script = program(
        1, tmp_path, exchange, **{"/etc/ssl/company-ca.pem": str(certificates.authority)}
    )
    text = Path(script).read_text().replace("127.0.0.1", "no-such-host.invalid")
    Path(script).write_text(text)
    with started(script, no_proxy="*") as process:
        said.append(read_until(process, "Disconnect("))
    for row in rows:
        pattern = re.escape(row).replace("…", ".*")
        assert any(re.search(pattern, text) for text in said), (row, said)
    assert not any("password" in text or "wrong" in text for text in said[:3])
