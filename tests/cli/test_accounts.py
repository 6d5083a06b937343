"""The file of accounts: what it may say, and that all that is wrong with it is said at once."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fastpos import SnapshotError
from fastpos.cli import accounts
from fastpos.cli.accounts import AccountsError, read_accounts
from fastpos.journal import Journal
from fastpos.simulator import Exchange

SECRET = "hush-4f1c9a-hush"
A_DAY = "must be more than 0 and at most 86400 seconds, not 0"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file of a test belongs, beside those of a few secrets."""
    monkeypatch.setenv("KEY", SECRET)
    monkeypatch.setenv("NO_KEY", f"{SECRET} é")
    monkeypatch.setenv("PROXY", f"socks5://me:{SECRET}@127.0.0.1:1")
    monkeypatch.delenv("MISSING", raising=False)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(SECRET.encode() + b"\xff")
    return tmp_path / "accounts.toml"


def faults(file: Path, text: str | bytes) -> list[str]:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(AccountsError) as caught:
        read_accounts(str(file))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    return list(caught.value.faults)


def test_what_a_file_may_say(file: Path) -> None:
    file.write_text("""
        [defaults]
        url = "wss://example.com/ws"
        broker = 1003
        tick_timeout = false
        reconnect = { maximum = 5, max_attempts = 3 }
        [accounts.alice]
        api_key = { env = "KEY" }
        [accounts."Bob's"]
        token = { file = "secret" }
        number = "decimal"
        broker = 7
        reconnect = false
        proxy = { env = "PROXY" }
        source_address = "127.0.0.1"
        [accounts."Bob's".snapshot]
        url = "https://example.com"
        api_key = { env = "KEY" }
        api_secret = { file = "secret" }
        timeout = 3
    """)
    alice, bob = read_accounts(str(file)).values()
    stream = alice.new_stream(alice.new_snapshot())
    assert repr(stream) == "<PositionStream alice wss://example.com:443 broker=1003>"
    settings: Any = stream._settings
    assert (settings.tick_timeout, settings.snapshot, settings.number) == (None, None, float)
    assert settings.reconnect.max_attempts == 3
    assert settings.credential.get() == SECRET
    snapshot = bob.new_snapshot()
    settings = bob.new_stream(snapshot)._settings  # type: ignore[assignment]
    assert (settings.name, settings.reconnect, settings.number) == ("Bob's", None, Decimal)
    assert settings.proxy_address.password == SECRET
    assert settings.snapshot is snapshot
    assert SECRET not in repr((alice, bob))


def test_an_account_is_the_same_as_long_as_its_words_are(file: Path) -> None:
    def read(more: str = "", name: str = "KEY") -> Any:
        file.write_text(f'accounts.a = {{ broker = 1, api_key = {{ env = "{name}" }}{more} }}')
        return read_accounts(str(file))["a"]

    assert read() == read()
    assert read() != read(", ping_interval = 3, reconnect = {initial = 1}")
    (file.parent / "link").symlink_to("secret")
    assert read() != read(name="PATH")


TABLES: dict[str, tuple[str, ...]] = {
    # What the account `a` says beside a broker, and what is wrong with it.
    "": ("accounts.a: a credential is needed: token or api_key",),
    'token = {env = "KEY"}\napi_key = {env = "KEY"}': (
        "accounts.a: token and api_key exclude each other: give one of them",
    ),
    f'api_key = "{SECRET}"': (
        "accounts.a.api_key: a secret must not stand here: say where it is, "
        '{ env = "NAME" } or { file = "PATH" }',
    ),
    **{
        f"api_key = {value}": ('accounts.a.api_key: must be { env = "NAME" } or { file = "PATH" }',)
        for value in (
            *("7", "[]", "{}", "{env = 7}", '{env = ""}', '{env = "KEY", file = "secret"}'),
            f'{{is = "{SECRET}"}}',
        )
    },
    **{
        f"token = {{{key}}}": (f"accounts.a.token: {text}",)
        for key, text in {
            'env = "MISSING"': "its environment variable is not set",
            f'env = "{SECRET}"': "its environment variable is not set",
            'env = "NO_KEY"': "must be one line of visible ASCII without white space around it",
            f'file = "{SECRET}"': "its file can't be read: No such file or directory",
            'file = "."': "its file can't be read: Is a directory",
            'file = "\\u0000"': "its file can't be read: that is no path",
            'file = "empty"': "its file is empty",
            'file = "binary"': "its file is not ASCII text of at most 65536 bytes",
        }.items()
    },
    **{
        f'api_key = {{env = "KEY"}}\n{key}': (f"accounts.a.{text}",)
        for key, text in {
            'broker = "1"': "broker: must be an int, not str",
            "broker = true": "broker: must be an int, not bool",
            'url = "http://x"': "url: must begin with ws:// or wss://, not 'http'",
            "url = 7": "url: must be a str, not int",
            "pong_timeout = 0": f"pong_timeout: {A_DAY}",
            "pong_timeout = false": "pong_timeout: must be a number of seconds, not bool",
            "pong_timeout = 10:00:00": "pong_timeout: must be a string, a number or a boolean",
            "tick_timeout = [1]": "tick_timeout: must be a string, a number or a boolean",
            'number = "int"': 'number: must be "float" or "decimal"',
            "number = 7": 'number: must be "float" or "decimal"',
            "reconnect = true": "reconnect: must be a table, or false for never",
            "reconnect = {initial = -1}": "reconnect.initial: must be at least 0.0, not -1",
            'reconnect = {factor = "2"}': "reconnect.factor: must be a number, not '2'",
            "reconnect = {max = 1}": "reconnect.max: there is no such key",
            'source_address = "x"': "source_address: must be an IP address, not 'x'",
            'proxy = "ftp://x"': "proxy: must begin with http:// or socks5:// or socks5h://, "
            "not 'ftp'",
            f'proxy = "http://me:{SECRET}@x"': "proxy: a secret must not stand here: "
            'say where it is, { env = "NAME" } or { file = "PATH" }',
            'proxy = {env = "KEY"}': "proxy: must begin with http:// or socks5:// or socks5h://, "
            "not 'nothing'",
            **{
                f'{key} = "{SECRET}"': f"{key}: there is no such key"
                for key in ("name", "dispatch", "apikey", "headers", "on_order", "ssl_context")
            },
            f'"a\\nb" = "{SECRET}"': r'"a\nb": there is no such key',
            "snapshot = 7": "snapshot: must be a table",
        }.items()
    },
    'api_key = {env = "KEY"}\nsnapshot = {}': tuple(
        f"accounts.a.snapshot.{key}: is missing" for key in ("url", "api_key", "api_secret")
    ),
    f"""api_key = {{env = "KEY"}}
    [accounts.a.snapshot]
    url = "https://me:{SECRET}@x"
    api_key = "{SECRET}"
    api_secret = {{file = "nowhere"}}
    timeout = 0
    proxy = "" """: (
        "accounts.a.snapshot.url: must not hold a user or password",
        "accounts.a.snapshot.api_key: a secret must not stand here: say where it is, "
        '{ env = "NAME" } or { file = "PATH" }',
        "accounts.a.snapshot.api_secret: its file can't be read: No such file or directory",
        f"accounts.a.snapshot.timeout: {A_DAY}",
        "accounts.a.snapshot.proxy: there is no such key",
    ),
}


@pytest.mark.parametrize("text", TABLES)
def test_what_is_wrong_with_an_account(file: Path, text: str) -> None:
    broker = "" if text.startswith("broker") or "\nbroker" in text else "broker = 1003\n"
    assert faults(file, f"[accounts.a]\n{broker}{text}") == [*TABLES[text]]


FILES: dict[str | bytes, tuple[str, ...]] = {
    "": ("accounts: there are none",),
    "[accounts]": ("accounts: there are none",),
    "accounts = 7\ndefaults = 8": ("defaults: must be a table", "accounts: must be a table"),
    f'accounts.a = "{SECRET}"': ("accounts.a: must be a table",),
    f"a = {SECRET}": ("it is no TOML: Invalid value (at line 1, column 5)",),
    b"\xff" + SECRET.encode(): ("it is not UTF-8",),
    "broker = 1\n[account.a]": (
        *("broker: there is no such table", "account: there is no such table"),
        "accounts: there are none",
    ),
    # All of it at once, in the order of the file.
    f"""
    [defaults]
    broker = "x"
    colour = "{SECRET}"
    token = "{SECRET}"
    snapshot = {{ url = "https://x" }}
    [accounts.a]
    token = "{SECRET}"
    ping_interval = "x"
    [accounts."b <n>"]
    api_key = {{ env = "MISSING" }}
    [accounts." "]
    api_key = {{ env = "KEY" }}
    """: (
        "defaults.token: belongs to an account",
        "defaults.snapshot: belongs to an account",
        "defaults.broker: must be an int, not str",
        "defaults.colour: there is no such key",
        "accounts.a.ping_interval: must be a number of seconds, not str",
        "accounts.a.token: a secret must not stand here: say where it is, "
        '{ env = "NAME" } or { file = "PATH" }',
        'accounts."b <n>": must not hold <n>',
        'accounts."b <n>".api_key: its environment variable is not set',
        "accounts.\" \": must be 1 to 100 printable characters, not ' '",
    ),
    "[accounts.a]\nx = 1\n[accounts.b]\nbroker = 1": (
        "accounts.a.x: there is no such key",
        "accounts.a.broker: is missing, here and in [defaults]",
        "accounts.a: a credential is needed: token or api_key",
        "accounts.b: a credential is needed: token or api_key",
    ),
}


@pytest.mark.parametrize("text", FILES)
def test_what_is_wrong_with_a_file(file: Path, text: str | bytes) -> None:
    assert faults(file, text) == [*FILES[text]]


def test_a_file_that_is_not_there_is_a_fault(file: Path) -> None:
    with pytest.raises(AccountsError, match=r"^it can't be read: No such file or directory$"):
        read_accounts(str(file))


def test_packages_that_are_missing_are_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[accounts.a]\nbroker = 1\napi_key = {env = "KEY"}\nsnapshot = {}')
    monkeypatch.delitem(sys.modules, "fastpos.rest", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    assert faults(file, file.read_bytes())[0].startswith("accounts.a.snapshot: fastpos.rest needs")
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install .*\[serve\]"):
        accounts.read_accounts(str(file))


def test_secrets_are_read_again_at_every_use(
    file: Path, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(f"""
        [accounts.a]
        broker = 1
        proxy = ""
        token = {{ file = "secret" }}
        [accounts.a.snapshot]
        url = "{exchange.rest_url}"
        api_key = {{ env = "KEY" }}
        api_secret = {{ file = "secret" }}
    """)
    account = read_accounts(str(file))["a"]
    snapshot = account.new_snapshot()
    credential = account.new_stream(snapshot)._settings.credential
    assert snapshot is not None
    with pytest.raises(SnapshotError):
        snapshot()
    monkeypatch.setenv("KEY", exchange.api_key)
    (file.parent / "secret").write_text(exchange.api_secret)
    assert [balance.coin for balance in snapshot().balances] == ["USDT"]
    assert credential.get() == exchange.api_secret
    (file.parent / "secret").unlink()
    for call, kind in ((snapshot, ValueError), (credential.get, Exception)):
        with pytest.raises(kind, match="its file can't be read"):
            call()
    snapshot.close()


def test_a_journal_is_a_folder_beside_the_file_or_none(file: Path) -> None:
    account = 'api_key = { env = "KEY" }'
    file.write_text(
        f'[defaults]\nbroker = 1\njournal = "all"\n[accounts.a]\n{account}\n'
        f'[accounts.b]\n{account}\njournal = "/her/own"\n[accounts.c]\n{account}\njournal = false'
    )
    found = read_accounts(str(file))
    assert [found[name].arguments["journal"] for name in "abc"] == [
        *(str(file.parent / "all"), "/her/own", False)
    ]
    assert found["c"].new_stream(None, Journal(file.parent))._settings.journal is None
    text = f"[defaults]\nbroker = 1\njournal = %s\n[accounts.a]\n{account}"
    for value, fault in (
        ("7", "must be a path or a Journal, not int"),
        ("true", "must be a path or a Journal, not bool"),
        ('""', "must not be an empty path"),
    ):
        assert faults(file, text % value) == [f"defaults.journal: {fault}"]
