"""The parameters of a request, each given once and as it must be."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Final, overload

from leases.cli.options import duration
from leases.record import TOKEN_BITS

if TYPE_CHECKING:
    from starlette.requests import Request

_NUMBER: Final = re.compile("0|[1-9][0-9]{0,38}", re.ASCII)


class BadQuery(ValueError):
    """A parameter is missing or cannot be used; the message says what to send."""


def one(request: Request, name: str) -> str:
    """A parameter that has to be there, once.

    Raises:
        BadQuery: it is not.
    """
    found = request.query_params.getlist(name)
    if len(found) != 1 or not found[0]:
        raise BadQuery(f"the parameter {name} has to be given {'once' if len(found) > 1 else ''}".rstrip())
    return found[0]


def number(request: Request, name: str) -> int:
    """A token.

    Raises:
        BadQuery: it is none.
    """
    text = one(request, name)
    if not _NUMBER.fullmatch(text) or int(text) >> TOKEN_BITS:
        raise BadQuery(f"{name}={text[:50]!r} is not a token; send the number that the state shows, or 0")
    return int(text)


@overload
def seconds(request: Request, name: str, default: float, *, least: float, most: float) -> float: ...
@overload
def seconds(request: Request, name: str, default: None, *, least: float, most: float) -> float | None: ...
def seconds(request: Request, name: str, default: float | None, *, least: float, most: float) -> float | None:
    """A duration, between two bounds.

    Raises:
        BadQuery: it is none.
    """
    if name not in request.query_params:
        return default
    text = one(request, name)
    try:
        given = duration(text)
    except argparse.ArgumentTypeError as error:
        raise BadQuery(f"{name}: {error}") from error
    if not least <= given <= most:
        raise BadQuery(f"{name}={text[:50]} is not from {least:g} to {most:g} seconds; send that")
    return given
