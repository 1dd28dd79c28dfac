"""Taking the URL of a store on a network apart: hosts, credentials, a path, parameters.

A password may hold every character that means something in a URL, and people forget to encode it. So whatever
could be read in two ways is refused, and no error repeats any part of a URL that might be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from leases.errors import ConfigurationError
from leases_backends._parameters import SECRET, fault, parameters, quoted

TLS: Final = ("ca", "cert", "key", "server_name")

_FILES: Final = frozenset({"ca", "cert", "key", "password_file", "token_file"})

# The schemes that speak in the clear, and their twins that do not.
_SECURE: Final[Mapping[str, str]] = {"consul": "consuls", "etcd": "etcds", "zookeeper": "zookeepers"}
_HOST: Final = re.compile("[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
_SECRET_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Address:
    """A store's URL, checked and percent-decoded.

    Attributes:
        scheme: in lower case.
        user, password: empty where the URL has none.
        hosts: name or address (an IPv6 one without its brackets) and port; empty where the URL has none.
        path: without slashes at its ends.
        options: the parameters behind the question mark.
    """

    scheme: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    options: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The hosts as `host:port`, IPv6 addresses in brackets."""
        return tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)

    @property
    def secure(self) -> bool:
        """Whether the scheme asks for TLS."""
        return self.scheme in _SECURE.values()

    @property
    def shown(self) -> str:
        """The URL without user, credentials and certificates: what names the store, for everybody alike."""
        from urllib.parse import quote

        private = {*TLS, *(name for name in self.options if re.search(SECRET, name))}
        options = sorted((name, value) for name, value in self.options.items() if name not in private)
        query = "&".join(f"{name}={quote(value, safe='/:,')}" for name, value in options)
        path = f"/{quote(self.path, safe='/')}" if self.path else ""
        return f"{self.scheme}://{','.join(self.endpoints)}{path}{'?' if query else ''}{query}"

    @property
    def handed_on(self) -> str:
        """The URL for another process of this host, in whatever folder it is: all but the password."""
        user = f"{quoted(self.user, ':/')}@" if self.user else ""
        path = f"/{quoted(self.path)}" if self.path else ""
        return f"{self.scheme}://{user}{','.join(self.endpoints)}{path}{query_of(self.options)}"

    def secret(self, option: str) -> str:
        """What the file says that an option like `password_file` names, without the line's end.

        Raises:
            ConfigurationError: it cannot be read, or it is empty, or not one line of text.
        """
        path, why, text = self.options[option], "", ""
        try:
            with open(path, "rb") as file:
                body = file.read(_SECRET_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(
                f"{option}={path} cannot be read ({error.strerror}); name a file that this process may read"
            ) from None
        except ValueError:
            raise ConfigurationError(f"{option} holds a character that no path has; mend it") from None
        try:
            text = body.decode().strip("\r\n")
        except UnicodeDecodeError:
            why = "is not text in UTF-8"
        if len(body) > _SECRET_BYTES:
            why = f"is over {_SECRET_BYTES} bytes long"
        elif not why and (not text or len(text.splitlines()) != 1):
            why = "is empty" if not text else "has more than one line"
        if why:
            raise ConfigurationError(f"{option}={path} {why}; write the secret alone into it")
        return text


def address(url: str, *, port: int, known: Collection[str], need_host: bool = True) -> Address:
    """A URL of the form `scheme://user:password@host:port,host:port/path?option=value&…`.

    Args:
        url: its scheme has been looked at already.
        port: the one of a host that names none.
        known: the options that this store understands.
        need_host: refuse a URL without a host.

    Raises:
        ConfigurationError: it cannot be read, or could be read in two ways. No part of it is repeated that
            might be a secret.
    """
    scheme, authority, path, query = _parts(url)
    who, _, where = authority.rpartition("@")
    user, _, password = who.partition(":")
    if ":" in password:
        raise fault(url, 'there is more than one ":" before the "@"', 'write ":" in a password as %3A')
    hosts = tuple(_host(part, port, url) for part in where.split(",")) if where else ()
    if need_host and not hosts:
        raise fault(url, "it names no host", f"write {scheme}://host:{port}")
    found = parameters(url, query, known, lambda value: _decoded(value, url))
    scheme = scheme.lower()
    if scheme in _SECURE and not found.keys().isdisjoint(TLS):
        raise fault(url, f'"{scheme}:" does not use TLS', f'write "{_SECURE[scheme]}:"')
    return Address(
        scheme,
        _decoded(user, url),
        _decoded(password, url),
        hosts,
        _decoded(path, url).strip("/"),
        found,
    )


def query_of(options: Mapping[str, str]) -> str:
    """Parameters with their question mark, and relative paths of files made absolute; empty without any."""
    values = {name: absolute(value) if name in _FILES else value for name, value in options.items()}
    query = "&".join(f"{name}={quoted(value)}" for name, value in values.items())
    return f"?{query}" if query else ""


def absolute(path: str) -> str:
    """A path for who looks from another folder; as it is where the working directory is gone."""
    try:
        return os.path.abspath(path)
    except OSError:
        return path


_ENCODE: Final = 'in user, password, path and values write "/?#@:%" as %2F, %3F, %23, %40, %3A, %25'


def _parts(url: str) -> tuple[str, str, str, str]:
    """Scheme, authority, path and query, where nothing in them could mean anything else."""
    scheme, _, rest = url.partition(":")
    body, mark, query = rest.partition("?")
    if "#" in url:
        raise fault(url, 'it has a "#"', 'write "#" as %23')
    if "@" in query or (mark and not query):
        raise fault(url, 'it has an "@" behind a "?"' if query else 'it ends in "?"', _ENCODE)
    if body and not body.startswith("//"):
        raise fault(url, '"//" is missing behind the scheme', f"write {scheme}://host…")
    authority, _, path = body[2:].partition("/")
    if "@" in path or authority.count("@") > 1:
        raise fault(url, 'it has an "@" too many, or in its path', _ENCODE)
    return scheme, authority, path, query


def _host(text: str, port: int, url: str) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        if not bracket or (after and not after.startswith(":")) or not _is_ipv6(host):
            raise fault(url, "an IPv6 address in it is not one", "write it as [::1]:port")
        number = after[1:] if after else None
    else:
        host, colon, after = text.partition(":")
        number = after if colon else None
        if not _HOST.fullmatch(host):
            raise fault(url, "a host in it is not one", f"{_ENCODE}; separate hosts by commas")
        host = host.lower()
    if number is None:
        return host, port
    if not (number.isascii() and number.isdecimal() and len(number) <= 5 and 0 < int(number) < 65536):
        raise fault(url, "a port in it is not a number from 1 to 65535", _ENCODE)
    return host, int(number)


def _is_ipv6(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _decoded(text: str, url: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote_to_bytes

    decoded = None
    if not re.search("%(?![0-9A-Fa-f]{2})", text):
        with suppress(ValueError):  # Left behind, so that the error does not carry the text along.
            decoded = unquote_to_bytes(text).decode()
    if decoded is None or "\0" in decoded:
        raise fault(url, 'a "%" in it does not begin a character in UTF-8', 'write "%" itself as %25')
    return decoded
