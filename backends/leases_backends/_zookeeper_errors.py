"""What the client library raises, in the words of the contract."""

from __future__ import annotations

from typing import Final

from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    NotReadOnlyCallError,
    QuotaExceededError,
    RolledBackError,
    RuntimeInconsistency,
    SessionClosedRequireSaslError,
    SessionMovedError,
    ThrottledOpError,
)

from leases.errors import StoreDenied, StoreError, StoreUnavailable

# Answers that say something about nodes, which a caller asked about: no errors of the store.
ANSWERS: Final = (NoNodeError, NodeExistsError, BadVersionError, NoAuthError, NotEmptyError)

# What a transaction says of the parts that failed only because another did.
_SHADOWS: Final = (RolledBackError, RuntimeInconsistency)


class NotDone(StoreUnavailable):
    """It surely was not executed: it was never sent, or the server said so."""


def translate(error: Exception, where: str) -> StoreError:
    """The store's error for the client library's.

    Args:
        error: what was raised, or what a request was answered with.
        where: the store or the node it was about, without secrets.
    """
    match error:
        case StoreError():
            return error
        case NoAuthError():
            return StoreDenied(
                f"{where}: this client may not do that; check user and password, and the node's ACL"
            )
        case AuthFailedError() | SessionClosedRequireSaslError():
            return StoreDenied(f"{where} refused the credentials; check user and password, and sasl=")
        case InvalidACLError():
            return StoreDenied(
                f"{where} knows no identity of this client; give user and password, or acl=open"
            )
        case QuotaExceededError():
            return StoreDenied(f"{where}: a quota is used up; raise it with setquota in zkCli")
        case ThrottledOpError() | NotReadOnlyCallError() | SessionMovedError():
            return NotDone(f"{where} did not do it ({_name(error)}); try again")
        case _:
            return StoreUnavailable(f"{where} did not answer ({_name(error)}); look whether it is up")


def fault_of(answers: list[object]) -> Exception | None:
    """Why a transaction failed; None where all of it was done."""
    faults = [answer for answer in answers if isinstance(answer, Exception)]
    return next((fault for fault in faults if not isinstance(fault, _SHADOWS)), faults[0] if faults else None)


def _name(error: Exception) -> str:
    said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
