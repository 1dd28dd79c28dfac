"""The parameters of a store's URL, without what a short command on the default store would pay for.

No error repeats any part of a URL that might be a secret: a password may hold every character that means
something there, and people forget to encode it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final

from leases.errors import ConfigurationError
from leases.urls import shown

SECRET: Final = "(?i)pass|pwd|secret|token|credential|auth|api_?key"
_CREDENTIALS: Final = ("password", "token")


def split(url: str, known: Collection[str] = ()) -> tuple[str, dict[str, str]]:
    """The part between scheme and query, and the query's parameters, both percent-decoded.

    Args:
        url: `scheme:rest?key=value&…`.
        known: the parameters that this store understands.

    Raises:
        ConfigurationError: a parameter that is unknown, doubled, or without a value.
    """
    rest, _, query = url.partition(":")[2].partition("?")
    return _decoded(rest), parameters(url, query, known, _decoded)


def quoted(text: str, also: str = "") -> str:
    """Text as a part of a URL: what means something there is encoded, and bytes that are no UTF-8 are not."""
    return re.sub(rf"[\0- %?#@&\x7f{also}]", lambda found: f"%{ord(found[0]):02X}", text)


def fault(url: str, what: str, advice: str) -> ConfigurationError:
    """The error of a URL that it may not show as it is."""
    return ConfigurationError(f"{shown(url)}: {what}; {advice}")


def parameters(url: str, query: str, known: Collection[str], decoded: Callable[[str], str]) -> dict[str, str]:
    """What stands behind the question mark of a URL.

    Raises:
        ConfigurationError: a parameter that is unknown, doubled, or without a value, or a secret.
    """
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    for key, _, _ in pairs:
        if key in _CREDENTIALS or (key not in known and re.search(SECRET, key)):
            raise fault(url, "a secret stands among its parameters", _where_secrets_go(known))
    found: dict[str, str] = {}
    for key, equals, value in pairs:
        if key not in known or key in found or not value:
            # What is no name may be the rest of a value that holds an "&".
            is_name = key in known or (equals and re.fullmatch("[a-z][a-z0-9_]{0,30}", key))
            name = f"the parameter {key!r}" if is_name else "a parameter"
            what = "is given twice" if key in found else "has no value" if key in known else "is unknown"
            raise fault(url, f"{name} {what}", f"known here: {', '.join(sorted(known)) or 'none'}")
        found[key] = decoded(value)
    return found


def _where_secrets_go(known: Collection[str]) -> str:
    files = [f"{name}=FILE" for name in sorted(known) if name.removesuffix("_file") in _CREDENTIALS]
    if not files:
        return "this store takes none there, leave it out"
    named = " or ".join(files)
    return f"write it into a file and name that in {named}, or put it before the host as user:password@"


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote

    return unquote(text)
