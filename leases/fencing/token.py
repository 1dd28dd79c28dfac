"""`Token`: the number of a tenure, together with the lock that it belongs to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote

from leases.errors import ConfigurationError, ForeignToken, MalformedToken, StaleToken
from leases.lease import Lease
from leases.record import TOKEN_BITS, check_holder, check_name

_LIMIT: Final = 1 << TOKEN_BITS
_PRINTED: Final = r"([!-+\--:<-~]+)"  # no comma either: two headers can come joined by one
_TEXT: Final = re.compile(f"(0|[1-9][0-9]{{0,38}});name={_PRINTED}(?:;holder={_PRINTED})?")
_PLAIN: Final = "/:@"  # readable as they are, and without a meaning in a header or a shell's environment


@dataclass(frozen=True, slots=True)
class Token:
    """A fencing token: it grows with every acquisition of its lock, and means nothing for another lock.

    Tokens of one lock can be compared; comparing those of two raises `ForeignToken`. As text it is
    ``17;name=orders/42;holder=web-3:7``, ASCII that fits into a header or an environment variable; whatever
    does not is percent-encoded.

    Attributes:
        name: the lock.
        number: larger than that of every earlier tenure of this lock.
        holder: who holds by it; `leases.fencing.Validator` asks for it, and it does not count in
            comparisons.

    Raises:
        ConfigurationError: a name, a number or a holder that no lease has.
    """

    name: str
    number: int
    holder: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        number = self.number
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < _LIMIT:
            raise ConfigurationError(
                f"{number!r} is no token of at most {TOKEN_BITS} bits; pass the number that lease.token shows"
            )
        if self.holder is not None:
            check_holder(self.holder)

    @classmethod
    def of(cls, lease: Lease | Token, /) -> Token:
        """The token of a lease, held or not; a token is given back as it is.

        Raises:
            ConfigurationError: neither of them.
        """
        if isinstance(lease, Token):
            return lease
        if not isinstance(lease, Lease):
            raise ConfigurationError(f"{lease!r} is neither a lease nor a Token; pass one of them")
        return cls(lease.name, lease.token, lease.holder)

    @classmethod
    def parse(cls, text: str, /) -> Token:
        """The token that a text says.

        Raises:
            MalformedToken: it says none. The text may have come from anywhere.
        """
        if not isinstance(text, str):
            raise MalformedToken(repr(text), "it is not text")
        match = _TEXT.fullmatch(text)
        if match is None:
            raise MalformedToken(text, "it is not of the form NUMBER;name=NAME;holder=HOLDER")
        try:
            holder = None if match[3] is None else unquote(match[3], errors="strict")
            return cls(unquote(match[2], errors="strict"), int(match[1]), holder)
        except (ConfigurationError, UnicodeDecodeError) as error:
            raise MalformedToken(text, str(error)) from None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Token:
        """The token under which ``leases hold`` runs this command, from its ``$LEASES_NAME`` and so on.

        Raises:
            ConfigurationError: this process was not started by ``leases hold``.
            MalformedToken: the variables say something else.
        """
        given = os.environ if environment is None else environment
        try:
            name, number = given["LEASES_NAME"], given["LEASES_TOKEN"]
        except KeyError as error:
            raise ConfigurationError(
                f"${error.args[0]} is not set; start this command by: leases hold NAME -- COMMAND"
            ) from None
        if not re.fullmatch("[0-9]{1,39}", number):
            raise MalformedToken(number, "$LEASES_TOKEN is not a number")
        try:
            return cls(name, int(number), given.get("LEASES_HOLDER") or None)
        except ConfigurationError as error:
            raise MalformedToken(number, str(error)) from None

    def __str__(self) -> str:
        holder = "" if self.holder is None else f";holder={quote(self.holder, _PLAIN)}"
        return f"{self.number};name={quote(self.name, _PLAIN)}{holder}"

    def __lt__(self, other: Token, /) -> bool:
        return self.number < self._number_of(other)

    def __le__(self, other: Token, /) -> bool:
        return self.number <= self._number_of(other)

    def __gt__(self, other: Token, /) -> bool:
        return self.number > self._number_of(other)

    def __ge__(self, other: Token, /) -> bool:
        return self.number >= self._number_of(other)

    def _number_of(self, other: Token) -> int:
        if not isinstance(other, Token):
            raise TypeError(f"a Token compares with another of its lock, not with {other!r}; wrap it in one")
        if other.name != self.name:
            raise ForeignToken(self.name, other.name)
        return other.number


def of_lock(name: str, lease: Lease | Token) -> Token:
    """The token of a lease on exactly this lock.

    Raises:
        ForeignToken: it is on another.
        ConfigurationError: neither a lease nor a token.
    """
    token = Token.of(lease)
    if token.name != name:
        raise ForeignToken(name, token.name)
    return token


def admitted(token: Token, highest: int | None) -> int:
    """The highest token seen once this one has come: what every fence here decides, and all it decides.

    An equal token passes, because it is of the same tenure.

    Raises:
        StaleToken: a higher one has come before.
    """
    if highest is not None and token.number < highest:
        raise StaleToken(token.name, token.number, highest)
    return token.number


def check_seconds(what: str, seconds: Any, least: float = 0.0) -> float:
    """Return an option in seconds; here nothing waits for ever.

    Raises:
        ConfigurationError: no number, below the least, or without end.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds < 1e9:
        raise ConfigurationError(f"{what}={seconds!r} is no number of seconds that can work; pass another")
    return float(seconds)
