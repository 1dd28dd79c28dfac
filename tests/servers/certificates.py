"""A certificate authority for a test, and what it signed, as files that servers and clients read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme
from cryptography.hazmat.primitives import serialization

# Every certificate names somebody: an empty list of names is a critical extension that Go refuses to read.
CLIENT_HOST: Final = "client.test"


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, PEM; `both` is the two in one file."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """Signs certificates into a folder; `ca` is the file that tells others to trust them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._ca = trustme.CA(organization_name="leases tests")
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def server(self, name: str = "server", *hosts: str) -> Pair:
        """A server's certificate, for 127.0.0.1, ::1 and localhost unless `hosts` are given.

        A cluster's members use it towards each other too: it is good for clients as well.
        """
        return self._pair(name, hosts or ("127.0.0.1", "::1", "localhost"), common_name=None)

    def client(self, common_name: str, *, organization: str | None = None) -> Pair:
        """A client's certificate; stores take the user from it, Kubernetes its groups from O."""
        return self._pair(
            f"client-{common_name}", (CLIENT_HOST,), common_name=common_name, organization=organization
        )

    def _pair(
        self, name: str, hosts: tuple[str, ...], *, common_name: str | None, organization: str | None = None
    ) -> Pair:
        made = self._ca.issue_cert(*hosts, common_name=common_name, organization_name=organization)
        pair = Pair(*(self.folder / f"{name}{end}" for end in (".pem", ".key", ".both.pem")))
        cert = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        key = _pkcs8(made.private_key_pem.bytes())
        pair.cert.write_bytes(cert)
        for secret, content in ((pair.key, key), (pair.both, key + cert)):
            secret.touch(0o600)
            secret.write_bytes(content)
        return pair


def _pkcs8(key: bytes) -> bytes:
    """The same key in the one form that Java reads as well."""
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
