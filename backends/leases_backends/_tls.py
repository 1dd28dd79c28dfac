"""Certificates that a store's URL names: checked when it is connected, read again for every connection."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from leases.errors import ConfigurationError
from leases_backends._url import Address


@dataclass(frozen=True, slots=True)
class Tls:
    """The files and the name of the URL's options `ca`, `cert`, `key` and `server_name`.

    Verification cannot be switched off; for a private authority name its certificate.

    Attributes:
        ca: a file with the authorities to trust; None for those that the system trusts.
        cert: a file with the client's certificate, and those between it and the authority.
        key: a file with the client's key; it may be the same.
        server_name: the name that the server's certificate has to carry, where it is not the host's.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None

    @classmethod
    def of(cls, address: Address) -> Tls:
        """What the URL says.

        Raises:
            ConfigurationError: a file that cannot be read or is not what it should be, a key without its
                certificate, or one that belongs to another.
        """
        options = address.options
        cert, key = options.get("cert"), options.get("key")
        if key and not cert:
            raise ConfigurationError("key= is given without its certificate; name that in cert=")
        tls = cls(options.get("ca"), cert, key or cert, options.get("server_name"))
        tls.context()
        return tls

    def context(self) -> ssl.SSLContext:
        """A fresh context from what the files hold now.

        Raises:
            ConfigurationError: as `of` does.
        """
        self.pem()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is None:
            context.load_default_certs()
        else:
            self._trust(context, self.ca)
        if self.cert is not None and self.key is not None:
            self._identify(context, self.cert, self.key)
        return context

    def pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """What the files hold now: authorities, certificate, key; None for what is not named.

        Raises:
            ConfigurationError: a file that cannot be read.
        """
        return _read("ca", self.ca), _read("cert", self.cert), _read("key", self.key)

    @staticmethod
    def _trust(context: ssl.SSLContext, ca: str) -> None:
        try:
            context.load_verify_locations(ca)
        except (ssl.SSLError, ValueError):
            raise ConfigurationError(
                f"ca={ca} holds no certificate; name a file with the authority's, in PEM"
            ) from None

    @staticmethod
    def _identify(context: ssl.SSLContext, cert: str, key: str) -> None:
        asked: list[bool] = []

        def encrypted() -> str:  # Without it OpenSSL asks for the passphrase on the terminal.
            asked.append(True)
            return ""

        try:
            context.load_cert_chain(cert, key, password=encrypted)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(_why(cert, key, bool(asked), getattr(error, "reason", ""))) from None


def _read(option: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(
            f"{option}={path} cannot be read ({error.strerror}); name a file that this process may read"
        ) from None


def _why(cert: str, key: str, encrypted: bool, reason: str | None) -> str:
    if encrypted:
        return f"key={key} is encrypted with a passphrase; name one that is not"
    if reason == "KEY_VALUES_MISMATCH":
        return f"key={key} does not belong to the certificate in cert={cert}; name two that belong together"
    with open(cert, "rb") as file:
        if b"-----BEGIN CERTIFICATE-----" not in file.read():
            return f"cert={cert} holds no certificate; name a file with the client's, in PEM"
    return f"key={key} holds no key; name a file with the certificate's, in PEM"
