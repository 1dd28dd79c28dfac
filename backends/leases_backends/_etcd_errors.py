"""What it means when etcd does not do what it was asked: surely not done, to be asked elsewhere, or in doubt.

etcd tells its reasons by sentences, which have stood since 3.4. A sentence that is not known here means
doubt, which costs a read and is always right.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from leases.errors import StoreDenied, StoreUnavailable
from leases_backends._etcd_wire import Failed


class Fate(Enum):
    """What became of a request that failed."""

    ELSEWHERE = "it was not executed here, and another member may execute it"
    STALE = "it was not executed, because the token has expired"
    VOID = "it was not executed"
    DENIED = "it was not executed and never will be"
    DOUBT = "nobody can say"


class NotExecuted(StoreUnavailable):
    """What was asked for surely was not done."""


class LeaseGone(NotExecuted):
    """It was not done because the janitor lease that it named is not there any more."""


# What a member says instead of executing anything, by the beginning of the sentence. "database space
# exceeded" is none of these: the writes that cross the quota together are executed, and refused all the
# same.
_SAID: Final = {
    "etcdserver: no leader": Fate.ELSEWHERE,
    "etcdserver: not capable": Fate.ELSEWHERE,
    "etcdserver: rpc not supported for learner": Fate.ELSEWHERE,
    "etcdserver: invalid auth token": Fate.STALE,
    "etcdserver: revision of auth store is old": Fate.STALE,
    "etcdserver: user name is empty": Fate.STALE,
    "etcdserver: too many requests": Fate.VOID,
    "etcdserver: requested lease not found": Fate.VOID,
    "etcdserver: permission denied": Fate.DENIED,
    "etcdserver: authentication failed": Fate.DENIED,
}
# What gRPC says of a request that no connection was found for, and why there is none.
_NO_WAY: Final = (
    "failed to connect to all addresses",
    "DNS resolution failed",
    "Name resolution failure",
    "errors resolving",
)
_NOT_ETCD: Final = ("http1.x server", "Expected SETTINGS frame")
_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_NO_TRUST: Final = (
    "CERTIFICATE",
    "TSI_DATA_CORRUPTED",
    "TSI_PROTOCOL_FAILURE",
    "Verification Check",
    "ALERT",
)


def fate(failed: Failed) -> Fate:
    """What became of the request."""
    for beginning, said in _SAID.items():
        if failed.details.startswith(beginning):
            return said
    if failed.unsent or failed.details.startswith(_NO_WAY):
        return Fate.ELSEWHERE
    return Fate.DOUBT


def explain(failed: Failed, identity: str, endpoint: str, user: str, timeout: float) -> Exception:
    """The error to raise, which says whose fault it is and what to do."""
    said = failed.details
    where = f"{identity}: {endpoint}"
    if said.startswith("etcdserver: authentication failed"):
        return StoreDenied(f'{identity} does not know user "{user}" with this password; mend the credentials')
    if said.startswith("etcdserver: permission denied"):
        return _denied(identity, user)
    if said.startswith("etcdserver: user name is empty"):
        return StoreDenied(
            f"{identity} wants to know who asks; name a user and a password, or a certificate with cert="
        )
    if said.startswith("etcdserver: requested lease not found"):
        return LeaseGone(
            f"{where} has lost a lease that is to remove old records; the next write does without"
        )
    if said.startswith("etcdserver: mvcc: database space exceeded"):
        return StoreUnavailable(
            f"{where} writes nothing more, its database is full; compact it, defragment, and disarm the alarm"
        )
    if said.startswith("etcdserver: rpc not supported for learner"):
        return NotExecuted(f"{where} is a learner, which serves no requests; name a voting member")
    if failed.code == "DEADLINE_EXCEEDED":
        return StoreUnavailable(f"{where} gave no answer in {timeout:.3g} s; is it up?")
    if failed.code == "UNIMPLEMENTED":
        return StoreDenied(f"{where} is no etcd of version 3; name another address")
    return _unanswered(failed, where)


def _unanswered(failed: Failed, where: str) -> Exception:
    said = failed.details
    if any(word in said for word in _NOT_ETCD):
        return StoreDenied(f"{where} is no etcd; name another address or port")
    if said.startswith(_NO_WAY):
        return _no_way(_short(said), where)
    if fate(failed) is Fate.DOUBT:
        return StoreUnavailable(f"{where} did not answer ({said or failed.code}); try again")
    return NotExecuted(f"{where} did not execute it ({said or failed.code}); try again")


def _no_way(cause: str, where: str) -> Exception:
    secure = where.startswith("etcds:")
    if any(word in cause for word in _NOT_TLS):
        return StoreDenied(f"{where} does not speak TLS; write etcd: instead of etcds:")
    if secure and any(word in cause for word in _NO_TRUST):
        advice = "look at ca=, cert=, key= and server_name="
        return StoreDenied(f"{where} and this client do not trust each other ({cause}); {advice}")
    if "Socket closed" in cause:
        other = "etcd: instead of etcds:" if secure else "etcds: instead of etcd:"
        return NotExecuted(f"{where} hung up; is it up, and does it want {other}?")
    return NotExecuted(f"{where} cannot be reached ({cause}); is it up?")


def _denied(identity: str, user: str) -> StoreDenied:
    who = f'user "{user}"' if user else "the user of this certificate"
    prefix = identity.split("://", 1)[1].partition("/")[2].partition("?")[0]
    return StoreDenied(
        f"{identity} does not let {who} do this; let its role: "
        f"etcdctl role grant-permission ROLE --prefix=true readwrite {prefix}/"
    )


def _short(said: str) -> str:
    """The cause, out of gRPC's account of it, which names codes and addresses in between."""
    cause = said.rpartition("last error: ")[2]
    cause = re.sub(r"^[A-Z_]+: (ipv[46]:\S+: )?", "", cause).strip().removesuffix(": OK")
    return cause if len(cause) < 200 else f"{cause[:200]}…"
