"""The Kubernetes API: one Lease object of `coordination.k8s.io/v1` per lock, as electors of client-go use it.

The primitive is a PUT that names the object's uid and resourceVersion. Release leaves the object, freed. Our
record is an annotation, and the spec says the same for everybody else (see _kubernetes_lease). A token is
counted up in the record, from the resourceVersion of what was read: objects of one kind are numbered by one
sequence, so that it rises over a deleted object too.

  Cut off         A holder whose renewals are not answered stops at its deadline; others wait the record's ttl
                  after the last change that they saw.
  Members lost    The API server answers from etcd alone: without a quorum there it reads and writes nothing,
                  and nobody's lease is renewed, or taken.
  Restored        etcd restored from a backup without a bump of its revision repeats resourceVersions, and
                  with them tokens: stop all clients first.

The first read of a name is a LIST of it, because its answer also tells how far the sequence is where there
is no object. Later ones are GETs, which are answered by etcd alone: for a LIST the API server may wait for a
tenth of a second until its cache is as new.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from leases.contract import (
    Applied,
    Backend,
    Conflict,
    Finding,
    Notify,
    Outcome,
    Slot,
    Traits,
    Unknown,
    Watch,
)
from leases.errors import ConfigurationError, RecordRefused, StoreError, StoreUnavailable
from leases.record import Claim, encode
from leases.urls import shown
from leases_backends._kubernetes_answers import lacks, trouble
from leases_backends._kubernetes_client import Answer, NoAnswer
from leases_backends._kubernetes_config import source
from leases_backends._kubernetes_examine import examine
from leases_backends._kubernetes_lease import NAME, Version, missing, object_of, slot_of
from leases_backends._kubernetes_names import lock_name, object_name
from leases_backends._kubernetes_site import Site, join, part
from leases_backends._url import address, query_of

TRAITS: Final = Traits(
    "kubernetes",
    release_deletes=False,
    token_from_write=False,
    least_ttl=1.0,
    token_source="counted up in the record, from the resourceVersion of what was read",
    failover="ttl from when the last renewal was seen; twice its leaseDurationSeconds after another tool",
    restore="resourceVersions and tokens go back with etcd's: stop all clients, restore, start them",
)

_OPTIONS: Final = ("context", "foreign_wait", "kubeconfig", "server")
_FOREIGN_WAIT: Final = 2.0
_PAGE: Final = 500  # objects of a scan to ask for at once


def connect(url: str) -> Kubernetes:
    """A namespace of a cluster; it is not talked to before the first call.

    `kubernetes://NAMESPACE` is in the cluster of the pod that this runs in, or else of the kubeconfig's
    current context; `context=NAME` and `kubeconfig=FILE` choose another. Without a namespace it is that of
    the pod or context. `server=URL` refuses any other cluster than that one. `foreign_wait=2` is how many
    times its own leaseDurationSeconds a claim of another tool has to stand still before it is taken over.

    Raises:
        ConfigurationError: the URL, the kubeconfig, or a certificate in it cannot be used.
    """
    parts = address(url, port=0, known=_OPTIONS, need_host=False)
    namespace, port = parts.hosts[0] if parts.hosts else (None, 0)
    if parts.user or parts.password or parts.path or port or len(parts.hosts) > 1:
        raise ConfigurationError(
            f"{shown(url)}: there is nothing but a namespace before the options; write kubernetes://NAMESPACE"
        )
    options = parts.options
    where = source(options.get("kubeconfig"), options.get("context"))
    user, wait = object(), _foreign_wait(options.get("foreign_wait"))
    site = join(where, namespace, wait, user)
    wanted, server = options.pop("server", "").rstrip("/"), site.client.access.server
    if wanted and wanted != server:
        part(site, user)
        raise ConfigurationError(
            f"{where.shown} is of the cluster {server}, not of {wanted}; name its context with context=NAME"
        )
    options["server"] = server
    query = "&".join(f"{key}={quote(value, safe='/:,')}" for key, value in options.items())
    if "kubeconfig" in options:
        options["kubeconfig"] = where.absolute
    here = f"kubernetes://{site.namespace}"
    return Kubernetes(site, user, f"{here}?{query}", here + query_of(options))


def _foreign_wait(text: str | None) -> float:
    if text is None:
        return _FOREIGN_WAIT
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 1 <= factor <= 100:
        raise ConfigurationError(f"foreign_wait={text!r} is not a factor from 1 to 100; choose one, as 2")
    return factor


class Kubernetes(Backend):
    """One user of a namespace; all of a process share their connections and one watch."""

    def __init__(self, site: Site, user: object, identity: str, address: str) -> None:
        self.traits = TRAITS
        self.identity, self.address = identity, address
        self._site = site
        self._user = user
        self._closed = False

    def read(self, name: str, timeout: float) -> Slot:
        site, until, called = self._open(), time.monotonic() + timeout, object_name(name)
        if name in site.seen:
            answer = site.client.call("GET", f"{site.path}/{called}", timeout)
            if answer.status == 200:
                site.grants.allow("get", name)
                with _understood(site):
                    return slot_of(name, answer.body, site.foreign_wait)
            if answer.status != 404:
                raise _trouble(site, answer, "get", name)
        answer = self._list({"fieldSelector": f"metadata.name={called}"}, until - time.monotonic())
        with _understood(site):
            for whole in answer.body["items"]:
                site.see(name)
                return slot_of(name, whole, site.foreign_wait)
            return missing(name, answer.body["metadata"]["resourceVersion"])

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        site, until = self._open(), time.monotonic() + timeout
        if claim is None:
            if seen.claim is None:
                return Conflict()
            claim = seen.claim.freed()
        whole = object_of(seen.name, site.namespace, seen, claim, encode(claim))
        creates = not isinstance(seen.version, Version)
        verb, method = ("create", "POST") if creates else ("update", "PUT")
        path = site.path if creates else f"{site.path}/{object_name(seen.name)}"
        try:
            answer = site.client.call(method, path, timeout, whole)
            if answer.status in (200, 201):
                site.grants.allow(verb, seen.name)
                site.see(seen.name)
                with _understood(site):
                    return Applied(slot_of(seen.name, answer.body, site.foreign_wait))
            # Both are said only of an object: that it is there already, is another one by now, or is gone.
            if answer.status == 409 or (answer.status == 404 and not creates):
                site.see(seen.name)
                return self._conflict(seen.name, until)
            raise _trouble(site, answer, verb, seen.name)
        except NoAnswer as error:
            return Unknown(error, void=error.void)

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        return self._open().watcher.add(seen, notify, self._user)

    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        until, found, page = time.monotonic() + timeout, dict[str, Slot | Exception](), ""
        while True:
            query = {"limit": str(_PAGE)} | ({"continue": page} if page else {})
            answer = self._list(query, until - time.monotonic())
            with _understood(self._site):
                for whole in answer.body["items"]:
                    metadata = whole["metadata"]
                    name = lock_name(metadata["name"], (metadata.get("annotations") or {}).get(NAME))
                    if name is not None and name.startswith(prefix):
                        found[name] = self._shown(name, whole)
                page = answer.body["metadata"].get("continue") or ""
            if not page:
                return [found[name] for name in sorted(found)]

    def remove(self, seen: Slot, timeout: float) -> Outcome:
        site = self._open()
        if not isinstance(seen.version, Version):
            return Conflict()
        conditions = {"uid": seen.version.uid, "resourceVersion": seen.version.number}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions}
        try:
            answer = site.client.call("DELETE", f"{site.path}/{object_name(seen.name)}", timeout, body)
            if answer.status in (404, 409):
                return Conflict()
            if answer.status not in (200, 202):
                raise _trouble(site, answer, "delete")
        except NoAnswer as error:
            return Unknown(error, void=error.void)
        return Applied(Slot(seen.name, None, order=seen.order, floor=seen.floor))

    def examine(self, timeout: float) -> Iterator[Finding]:
        yield from examine(self._open(), timeout)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            part(self._site, self._user)

    def forked(self) -> None:
        """Nothing is left to drop: the connections were closed when the child began."""

    def _open(self) -> Site:
        if self._closed:
            raise StoreUnavailable(f"{self.identity} was closed; connect again")
        return self._site

    def _list(self, query: Mapping[str, str], timeout: float) -> Answer:
        site = self._open()
        answer = site.client.call("GET", f"{site.path}?{urlencode(query)}", timeout)
        if answer.status != 200:
            raise _trouble(site, answer, "list", query.get("fieldSelector", ""))
        site.grants.allow("list", query.get("fieldSelector", ""))
        return answer

    def _conflict(self, name: str, until: float) -> Conflict:
        """What stands there instead, if there is time to ask; what is not ours is refused."""
        try:
            return Conflict(self.read(name, until - time.monotonic()))
        except RecordRefused:
            raise
        except StoreError:
            return Conflict()

    def _shown(self, name: str, whole: Mapping[str, Any]) -> Slot | Exception:
        try:
            return slot_of(name, whole, self._site.foreign_wait)
        except RecordRefused as refused:
            return refused


def _trouble(site: Site, answer: Answer, verb: str, name: str = "") -> StoreError:
    """The error for an answer; one that says "not allowed" may be that of a server that has just started."""
    if lacks(answer) and site.grants.may_come_back(verb, name, time.monotonic()):
        return NoAnswer(
            f"{site.client.shown} forbids what it has allowed ({answer.message}); has it just started?",
            void=True,
        )
    return trouble(answer, verb, site.namespace, site.client.shown)


@contextlib.contextmanager
def _understood(site: Site) -> Generator[None]:
    """An answer that is not what the API promises is no answer: a proxy's, or a stranger's."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise NoAnswer(
            f"{site.client.shown} answered with something else than Leases; is it an API server?", void=False
        ) from error
