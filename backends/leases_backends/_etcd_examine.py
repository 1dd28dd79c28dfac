"""What can be found out about an etcd cluster, and about what we may do in it, without writing anything."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Final, TypeVar

from leases.contract import Finding, Verdict
from leases.errors import StoreDenied, StoreError
from leases_backends import _etcd_messages as messages
from leases_backends._etcd_client import Client
from leases_backends._etcd_wire import ALARM, AUTH_STATUS, MEMBERS, RANGE, STATUS, TXN, Rpc

Q = TypeVar("Q")
A = TypeVar("A")

# The first good one of each line. 3.5.0 to 3.5.2 could lose committed writes when a member was killed, and
# later ones of every line mend watches that miss events and requests that pass by permissions.
RECOMMENDED: Final = {(3, 5): (3, 5, 28), (3, 6): (3, 6, 9)}
_NEARLY_FULL: Final = 0.8
_ALARMS: Final = {messages.AlarmMember.NOSPACE: "NOSPACE", messages.AlarmMember.CORRUPT: "CORRUPT"}
_NEVER: Final = -1  # no key has this version


class _Asker:
    """Asks the cluster, all questions within one time limit."""

    def __init__(self, client: Client, prefix: bytes, identity: str, timeout: float) -> None:
        self.client, self.prefix, self.identity = client, prefix, identity
        self._until = monotonic() + timeout

    def ask(self, rpc: Rpc[Q, A], question: Q, at: int | None = None) -> A:
        left = max(self._until - monotonic(), 0.0)
        if at is None:
            return self.client.call(rpc, question, left, who=self.identity)
        # One member that does not answer must leave time for the others.
        return self.client.call_at(at, rpc, question, left / 3, who=self.identity)


def examine(client: Client, prefix: bytes, identity: str, timeout: float) -> Iterator[Finding]:
    """One finding after the other; what fails is a finding too."""
    asker = _Asker(client, prefix, identity, timeout)
    answered: list[messages.StatusResponse] = []
    silent: list[StoreError] = []
    for at, endpoint in enumerate(client.address.endpoints):
        try:
            status = asker.ask(STATUS, messages.StatusRequest(), at)
        except StoreError as error:
            silent.append(error)
        else:
            answered.append(status)
            yield Finding("reach", Verdict.GOOD, f"{endpoint} answers")
            yield from _member(endpoint, status)
    for trouble in silent:
        if answered:
            yield Finding("reach", Verdict.DOUBTFUL, str(trouble), "requests go to the endpoints that answer")
        else:
            yield Finding("reach", Verdict.BAD, str(trouble))
    if answered:
        yield from _cluster(asker, answered)
        yield from _may(asker)


def _member(endpoint: str, status: messages.StatusResponse) -> Iterator[Finding]:
    yield _version(endpoint, status.version)
    if not status.leader:
        yield Finding(
            "health",
            Verdict.BAD,
            f"{endpoint} sees no leader",
            "see that most members run and reach each other",
        )
    if status.isLearner:
        yield Finding("health", Verdict.BAD, f"{endpoint} is a learner", "name voting members in the URL")
    for error in status.errors:
        yield Finding("health", Verdict.BAD, f"{endpoint} says: {error}", "see its log")
    if status.dbSizeQuota and status.dbSize > _NEARLY_FULL * status.dbSizeQuota:
        yield Finding(
            "space",
            Verdict.DOUBTFUL,
            f"{endpoint} uses {status.dbSize >> 20} of {status.dbSizeQuota >> 20} MiB",
            "compact and defragment it, or raise --quota-backend-bytes: a full etcd renews nothing",
        )


def _version(endpoint: str, version: str) -> Finding:
    numbers = tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdigit())
    least = next((good for line, good in RECOMMENDED.items() if line == numbers[:2]), RECOMMENDED[3, 5])
    if numbers >= least:
        return Finding("version", Verdict.GOOD, f"{endpoint} is etcd {version}")
    wanted = ".".join(map(str, least))
    return Finding(
        "version",
        Verdict.DOUBTFUL,
        f"{endpoint} is etcd {version}",
        f"upgrade to {wanted} or later: earlier ones may miss watch events, and 3.5.0 to 3.5.2 lose writes",
    )


def _cluster(asker: _Asker, answered: list[messages.StatusResponse]) -> Iterator[Finding]:
    if len({status.header.cluster_id for status in answered}) > 1:
        yield Finding(
            "health", Verdict.BAD, "the endpoints belong to different clusters", "name members of one cluster"
        )
    try:
        members = asker.ask(MEMBERS, messages.MemberListRequest()).members
        alarms = asker.ask(ALARM, messages.AlarmRequest()).alarms
    except StoreDenied:  # Both are for root where there are users; what matters to us shows in writes.
        yield Finding("health", Verdict.GOOD, "a leader is there; this user may not list members and alarms")
        return
    except StoreError as error:
        yield Finding("health", Verdict.BAD, str(error), "see that most members run and reach each other")
        return
    voting = [member for member in members if not member.isLearner]
    text = f"voting members: {len(voting)}; so many may fail at a time: {(len(voting) - 1) // 2}"
    yield Finding("health", Verdict.GOOD, text)
    for alarm in alarms:
        kind = _ALARMS.get(alarm.alarm, str(alarm.alarm))
        yield Finding(
            "health",
            Verdict.BAD,
            f"member {alarm.memberID:x} has raised {kind}",
            "mend it, then: etcdctl alarm disarm",
        )


def _may(asker: _Asker) -> Iterator[Finding]:
    """What we may do under the prefix, by a read and by a write whose condition cannot hold."""
    shown = asker.prefix.decode()
    try:
        enabled = asker.ask(AUTH_STATUS, messages.AuthStatusRequest()).enabled
    except StoreError:  # etcd 3.4 does not know the question, and others may refuse it.
        enabled = None
    if enabled is False:
        yield Finding(
            "users",
            Verdict.DOUBTFUL,
            "everybody who reaches it may do everything",
            "etcdctl auth enable, or mind it",
        )
    key = asker.prefix + b"leases-examination"
    everything = messages.RangeRequest(key=asker.prefix, range_end=asker.prefix[:-1] + b"0", limit=1)
    never = messages.TxnRequest(
        compare=[messages.Compare(target=messages.Compare.VERSION, key=key, version=_NEVER)],
        success=[messages.RequestOp(request_put=messages.PutRequest(key=key))],
        failure=[messages.RequestOp(request_range=messages.RangeRequest(key=key))],
    )
    try:
        asker.ask(RANGE, everything)
    except StoreError as error:
        yield Finding("permission to read", Verdict.BAD, str(error))
    else:
        yield Finding("permission to read", Verdict.GOOD, f"all under {shown}")
    try:
        asker.ask(TXN, never)
    except StoreError as error:
        yield Finding("permission to write", Verdict.BAD, str(error))
    else:
        yield Finding(
            "permission to write", Verdict.GOOD, f"under {shown}, by a transaction that wrote nothing"
        )
