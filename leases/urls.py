"""A store's URL as an error may show it: a password can stand anywhere in a URL that is spelt wrong."""

from __future__ import annotations

import re
from typing import Final

# A colon is a port's, an "@" is never there: what cannot be a password, however the URL is read.
_HARMLESS: Final = r"[A-Za-z][A-Za-z0-9+.-]*:(//)?([^@:?#%]|:[0-9]{1,5}(?=[,/]|$))*"
_SHOWN: Final = 200


def shown(url: str) -> str:
    """The URL up to its parameters, or no more than its scheme where anything else could be a secret."""
    before, mark, _ = url.partition("?")
    more = "?…" if mark else ""
    harmless = re.fullmatch(_HARMLESS, before) or not re.search("[:%=].", before)
    if harmless and "@" not in url and "#" not in url:
        return before[:_SHOWN] + ("…" if len(before) > _SHOWN else more)
    scheme = re.match("[A-Za-z][A-Za-z0-9+.-]*:(//)?(?=.)", url)
    return f"{scheme[0]}…" if scheme else "…"
