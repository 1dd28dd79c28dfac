"""Taking a store's URL apart, without the import of `urllib` that a short command would pay for."""

from __future__ import annotations

from collections.abc import Collection

from leases.errors import ConfigurationError


def split(url: str, known: Collection[str] = ()) -> tuple[str, dict[str, str]]:
    """The part between scheme and query, and the query's parameters, both percent-decoded.

    Args:
        url: `scheme:rest?key=value&…`.
        known: the parameters that this store understands.

    Raises:
        ConfigurationError: a parameter that is unknown, doubled, or without a value.
    """
    rest, _, query = url.partition(":")[2].partition("?")
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        if key not in known or key in options or not value:
            fault = "is given twice" if key in options else "has no value" if key in known else "is unknown"
            names = ", ".join(sorted(known)) or "none"
            raise ConfigurationError(f"{url}: the parameter {key!r} {fault}; known here: {names}")
        options[key] = _decoded(value)
    return _decoded(rest), options


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote

    return unquote(text)
