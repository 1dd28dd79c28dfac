"""From a URL to an ensemble: which servers, as whom, under which node."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from kazoo.protocol import connection
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from leases.errors import ConfigurationError
from leases_backends._tls import Tls
from leases_backends._url import TLS, Address, address
from leases_backends._zookeeper_client import Target
from leases_backends._zookeeper_nodes import is_path

_ACLS: Final = {"creator": CREATOR_ALL_ACL, "open": OPEN_ACL_UNSAFE}


class Place(NamedTuple):
    """Where records stand.

    Attributes:
        target: the servers, and as whom they are spoken to.
        parent: the node right above all records.
        acl: who may do what with the nodes that are made.
        address: the URL for another process, without the password.
    """

    target: Target
    parent: str
    acl: list[Any]
    address: str


def place_of(url: str) -> Place:
    """What a URL says.

    Raises:
        ConfigurationError: a URL, a file or a combination of options that cannot work.
    """
    where = address(url, port=2181, known=(*TLS, "acl", "sasl", "password_file"))
    shown = _shown_as(where)
    parent = where.path or "leases"
    if not is_path(parent):
        raise ConfigurationError(
            f"{shown}: its path cannot be a node for records; use one such as /app/locks"
        )
    user, password = _credentials(where, shown)
    sasl = _sasl(where, user, password, shown)
    acl = where.options.get("acl", "creator" if user else "open")
    if acl not in _ACLS:
        raise ConfigurationError(f"{shown}: acl= is one of {', '.join(_ACLS)}; choose one")
    if acl == "creator" and not (user or "cert" in where.options):
        raise ConfigurationError(f"{shown}: acl=creator needs an identity; give user and password, or cert=")
    target = Target(
        shown,
        where.hosts,
        where.endpoints,
        Tls.of(where) if where.secure else None,
        f"{user}:{password}" if user and not sasl else "",
        sasl,
    )
    return Place(target, f"/{parent}", _ACLS[acl], where.handed_on)


def _shown_as(where: Address) -> str:
    """The store's identity: the same from every process, in whatever order it names the servers."""
    return f"{where.scheme}://{','.join(sorted(where.endpoints))}/{where.path or 'leases'}"


def _credentials(where: Address, shown: str) -> tuple[str, str]:
    user, password = where.user, where.password
    if "password_file" in where.options:
        if password:
            raise ConfigurationError(f"{shown}: a password and password_file= are given; leave one out")
        password = where.secret("password_file")
    if bool(user) != bool(password):
        missing = "password" if user else "user"
        raise ConfigurationError(f"{shown}: the {missing} is missing; write user:password@ or password_file=")
    if ":" in user:
        raise ConfigurationError(f'{shown}: a user of ZooKeeper has no ":" in its name; use another')
    return user, password


def _sasl(where: Address, user: str, password: str, shown: str) -> tuple[tuple[str, str], ...]:
    mechanism = where.options.get("sasl")
    if mechanism is None:
        return ()
    if mechanism != "digest-md5":
        raise ConfigurationError(f"{shown}: sasl= is digest-md5 or left out; choose one")
    if not user:
        raise ConfigurationError(f"{shown}: sasl= needs a user and a password; write user:password@")
    if not connection.PURESASL_AVAILABLE:
        raise ConfigurationError(
            'sasl= needs the package pure-sasl; install it with: pip install "leases[zookeeper]"'
        )
    return ("mechanism", "DIGEST-MD5"), ("username", user), ("password", password)
