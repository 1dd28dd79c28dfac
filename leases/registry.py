"""From a URL to a backend: by its scheme, among our own and those of installed entry points.

The entry point group is ``leases.backends``: a name that is the URL's scheme, and a function that takes the
whole URL and returns a `leases.contract.Backend`. Our own schemes are looked up first and without
reading the metadata of every installed package, which would cost more than opening the default store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final

from leases.errors import ConfigurationError
from leases.urls import shown

if TYPE_CHECKING:
    from leases.contract import Backend

GROUP: Final = "leases.backends"
VARIABLE: Final = "LEASES_URL"
DEFAULT_URL: Final = "sqlite:"

# The same lines stand in pyproject.toml as entry points, and a test holds the two together.
OURS: Final[dict[str, str]] = {
    "consul": "leases_backends.consul:connect",
    "consuls": "leases_backends.consul:connect",
    "etcd": "leases_backends.etcd:connect",
    "etcds": "leases_backends.etcd:connect",
    "kubernetes": "leases_backends.kubernetes:connect",
    "memory": "leases_backends.memory:connect",
    "sqlite": "leases_backends.sqlite:connect",
    "zookeeper": "leases_backends.zookeeper:connect",
    "zookeepers": "leases_backends.zookeeper:connect",
}

# What to install where a scheme of ours cannot be imported.
EXTRAS: Final[dict[str, str]] = {
    "consul": "consul",
    "consuls": "consul",
    "etcd": "etcd",
    "etcds": "etcd",
    "kubernetes": "kubernetes",
    "zookeeper": "zookeeper",
    "zookeepers": "zookeeper",
}


def store_url(url: str | None = None) -> str:
    """The URL to use: the one given, else ``$LEASES_URL``, else the embedded store."""
    return url if url is not None else os.environ.get(VARIABLE) or DEFAULT_URL


def scheme_of(url: str) -> str:
    """The scheme of a store's URL.

    Raises:
        ConfigurationError: not a URL, or a scheme that nobody provides; the message lists the known ones.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"a store is a URL or a connected store, not {type(url).__name__}")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if match is None:
        known = ", ".join(sorted(schemes()))
        raise ConfigurationError(f'"{shown(url)}" is not a store URL; begin it with one of: {known}')
    scheme = match[1].lower()
    if scheme not in OURS and scheme not in schemes():
        known = ", ".join(sorted(schemes()))
        raise ConfigurationError(f'no backend for "{scheme}:"; the known schemes are: {known}')
    return scheme


def schemes() -> dict[str, str]:
    """Every scheme that can be used now, and what provides it; capitals make no difference in a scheme."""
    from importlib.metadata import entry_points

    return {point.name.lower(): point.value for point in entry_points(group=GROUP)} | OURS


def open_backend(url: str) -> Backend:
    """Connect to the store of a URL.

    Raises:
        ConfigurationError: a URL that no backend takes, or a backend whose library is not installed.
        StoreError: the store refused or could not be reached.
    """
    scheme = scheme_of(url)
    if scheme not in OURS:
        return _load_entry_point(scheme)(url)
    try:
        connect = _load(OURS[scheme])
    except (ImportError, AttributeError, TypeError) as error:  # All three of a version that is too old.
        if scheme not in EXTRAS or (getattr(error, "name", None) or "").startswith("leases"):
            raise
        raise ConfigurationError(f'"{scheme}:" {_wanting(error, EXTRAS[scheme])}') from error
    return connect(url)


def _wanting(error: Exception, extra: str) -> str:
    """What is to be done about a client library that is not there, or is there and broken."""
    if isinstance(error, ModuleNotFoundError):
        return f'needs the package {error.name}; install it with: pip install "leases[{extra}]"'
    return (
        f"needs a package that cannot be loaded: {' '.join(str(error).split())}; "
        f'install it anew with: pip install --upgrade --force-reinstall "leases[{extra}]"'
    )


def _load(reference: str) -> Callable[[str], Backend]:
    module, _, function = reference.partition(":")
    connect: Callable[[str], Backend] = getattr(import_module(module), function)
    return connect


def _load_entry_point(scheme: str) -> Callable[[str], Backend]:
    from importlib.metadata import entry_points

    point = next(point for point in entry_points(group=GROUP) if point.name.lower() == scheme)
    try:
        connect: Callable[[str], Backend] = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f'"{scheme}:" is provided by {point.value}, which cannot be loaded: {error}; mend that package'
        ) from error
    return connect
