"""Certificates for the tests: a good one, and three that a careful client refuses."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class ServerIdentity:
    """A server's key and certificate chain."""

    pem: Path
    """Key and chain in one file, as `openssl s_server -cert` takes it."""

    def context(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A server's context, for one TLS version only if asked."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


@dataclass(frozen=True)
class Certificates:
    authority: Path
    """The certificate of the authority that the tests' clients trust."""

    good: ServerIdentity
    """For `localhost` and 127.0.0.1."""

    wrong_host: ServerIdentity
    """By the trusted authority, but for another host."""

    expired: ServerIdentity

    untrusted: ServerIdentity
    """For the right host, by an authority that nobody knows."""

    def client_context(self) -> ssl.SSLContext:
        """Verifies as a client does by default, with our authority as the only one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority)
        return context


def make_certificates(directory: Path) -> Certificates:
    """Writes everything to files in `directory`."""
    authority = trustme.CA()
    stranger = trustme.CA()
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)

    def issued(name: str, certificate: trustme.LeafCert) -> ServerIdentity:
        path = directory / f"{name}.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(path)
        return ServerIdentity(path)

    authority_path = directory / "authority.pem"
    authority.cert_pem.write_to_path(authority_path)
    here = ("localhost", "127.0.0.1")
    return Certificates(
        authority=authority_path,
        good=issued("good", authority.issue_cert(*here)),
        wrong_host=issued("wrong_host", authority.issue_cert("elsewhere.example")),
        expired=issued(
            "expired",
            authority.issue_cert(
                *here,
                not_before=now - datetime.timedelta(days=30),
                not_after=now - datetime.timedelta(days=1),
            ),
        ),
        untrusted=issued("untrusted", stranger.issue_cert(*here)),
    )
