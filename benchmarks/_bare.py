"""What a lock on a store cannot do without, by the store's own client and nothing above it.

One conditional write takes a key, one renews it, one frees it; a contender that finds it taken waits for the
store's event and tries again. There is no lease in it, no renewal, no token, and no answer to anything that
goes wrong: it is what the figures of a real lock are divided by.
"""

from __future__ import annotations

import base64
import json
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

BODY = b'{"holder":"host:1","claim":"' + b"0" * 32 + b'","more":"' + b"0" * 150 + b'"}'  # as long as a record
PATIENCE = 5.0


class Bare(ABC):
    """One client of a store. A version is whatever the store compares."""

    @abstractmethod
    def look(self, name: str) -> tuple[bool, Any]:
        """Whether it is free, and at what version."""

    @abstractmethod
    def write(self, name: str, version: Any) -> Any:
        """Write the key if it stands at this version: the new one, or None where it did not."""

    @abstractmethod
    def free(self, name: str, version: Any) -> Any:
        """Free the key at the version that is ours: the version that is to be written next."""

    @abstractmethod
    def await_free(self, name: str, until: float) -> tuple[float, Any] | None:
        """Wait for the store to tell that it is free: when it told, and the version; None: not in time.

        Where it is free already, that was told at once.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""

    def enter(self, name: str, until: float) -> tuple[Any, float | None] | None:
        """Take it as soon as it is free: the version written, and when the store told; None: not in time."""
        free, version = self.look(name)
        told: float | None = None
        while time.monotonic() < until:
            mine = self.write(name, version) if free else None
            if mine is not None:
                return mine, told
            found = self.await_free(name, until)
            if found is None:
                return None
            free, (told, version) = True, found
        return None


def open_bare(url: str) -> Bare:
    """A client of the store of a URL, in the clear; of Kubernetes by a kubeconfig in JSON."""
    where = urlsplit(url)
    match where.scheme:
        case "etcd":
            return Etcd(where.netloc)
        case "zookeeper":
            return ZooKeeper(where.netloc)
        case "consul":
            return Consul(where.netloc)
        case "kubernetes":
            return Kubernetes(parse_qs(where.query)["kubeconfig"][0], where.netloc)
        case scheme:
            raise ValueError(f"there is no bare client for {scheme}")


class Etcd(Bare):
    """Txn on the key's MOD, with a put or a delete; a watch from the revision after the one seen."""

    def __init__(self, address: str) -> None:
        import grpc  # type: ignore[import-untyped] # It ships without types.

        from leases_backends import _etcd_messages as messages

        self._pb = messages
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._range = self._unary("KV/Range", messages.RangeResponse)
        self._txn = self._unary("KV/Txn", messages.TxnResponse)
        self._watch = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch", _serialized, messages.WatchResponse.FromString
        )

    def _unary(self, method: str, answer: Any) -> Callable[..., Any]:
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/etcdserverpb.{method}", _serialized, answer.FromString
        )
        return call

    def look(self, name: str) -> tuple[bool, Any]:
        found = self._range(self._pb.RangeRequest(key=self._key(name)), timeout=PATIENCE).kvs
        return not found, found[0].mod_revision if found else 0

    def write(self, name: str, version: Any) -> Any:
        put = self._pb.PutRequest(key=self._key(name), value=BODY)
        return self._transact(name, version, self._pb.RequestOp(request_put=put))

    def free(self, name: str, version: Any) -> Any:
        delete = self._pb.DeleteRangeRequest(key=self._key(name))
        self._transact(name, version, self._pb.RequestOp(request_delete_range=delete))
        return 0

    def _transact(self, name: str, version: int, operation: Any) -> int | None:
        compare = self._pb.Compare(target=2, key=self._key(name), mod_revision=version)
        answer = self._txn(self._pb.TxnRequest(compare=[compare], success=[operation]), timeout=PATIENCE)
        return answer.header.revision if answer.succeeded else None

    def await_free(self, name: str, until: float) -> tuple[float, Any] | None:
        seen = self._range(self._pb.RangeRequest(key=self._key(name)), timeout=PATIENCE)
        if not seen.kvs:
            return time.monotonic(), 0
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        create = self._pb.WatchCreateRequest(key=self._key(name), start_revision=seen.header.revision + 1)
        requests.put(self._pb.WatchRequest(create_request=create))
        answers = self._watch(iter(requests.get, None), timeout=max(until - time.monotonic(), 0.01))
        try:
            for answer in answers:
                if any(event.type == 1 for event in answer.events):
                    return time.monotonic(), 0
        except Exception as error:
            if getattr(error, "code", None) is None:
                raise
        finally:
            requests.put(None)
            answers.cancel()
        return None

    def _key(self, name: str) -> bytes:
        return f"bare/{name}".encode()

    def close(self) -> None:
        self._channel.close()


def _serialized(message: Any) -> bytes:
    body: bytes = message.SerializeToString()
    return body


class ZooKeeper(Bare):
    """`set` with a version; an empty node is free; a watch set by reading."""

    def __init__(self, address: str) -> None:
        from kazoo.client import KazooClient

        self._client: Any = KazooClient(hosts=address)
        self._client.start(PATIENCE)
        self._made: set[str] = set()

    def look(self, name: str) -> tuple[bool, Any]:
        body, stat = self._client.get(self._path(name))
        return not body, stat.version

    def write(self, name: str, version: Any) -> Any:
        return self._set(name, BODY, version)

    def free(self, name: str, version: Any) -> Any:
        return self._set(name, b"", version)

    def _set(self, name: str, body: bytes, version: Any) -> Any:
        from kazoo.exceptions import BadVersionError

        try:
            return self._client.set(self._path(name), body, version).version
        except BadVersionError:
            return None

    def await_free(self, name: str, until: float) -> tuple[float, Any] | None:
        events: queue.SimpleQueue[float] = queue.SimpleQueue()

        def told_now(event: object) -> None:
            events.put(time.monotonic())

        told = time.monotonic()
        while told < until:
            body, stat = self._client.get(self._path(name), watch=told_now)
            if not body:
                return told, stat.version
            try:
                told = events.get(timeout=max(until - time.monotonic(), 0))
            except queue.Empty:
                return None
        return None

    def _path(self, name: str) -> str:
        path = f"/bare-{quote(name, safe='')}"
        if path not in self._made:
            self._client.ensure_path(path)
            self._made.add(path)
        return path

    def close(self) -> None:
        self._client.stop()
        self._client.close()


class Consul(Bare):
    """`/v1/txn` with one `cas` or `delete-cas`; a blocking query."""

    def __init__(self, address: str) -> None:
        from urllib3 import HTTPConnectionPool

        host, _, port = address.rpartition(":")
        self._pool = HTTPConnectionPool(host, int(port), maxsize=2, retries=False)

    def look(self, name: str) -> tuple[bool, Any]:
        found, _ = self._get(name)
        return found is None, 0 if found is None else found["ModifyIndex"]

    def write(self, name: str, version: Any) -> Any:
        value = base64.b64encode(
            BODY + str(time.monotonic_ns()).encode()
        ).decode()  # the same is no write to it
        done = self._transact({"Verb": "cas", "Key": self._key(name), "Value": value, "Index": version})
        return None if done is None else done["Results"][0]["KV"]["ModifyIndex"]

    def free(self, name: str, version: Any) -> Any:
        self._transact({"Verb": "delete-cas", "Key": self._key(name), "Index": version})
        return 0

    def _transact(self, verb: dict[str, Any]) -> Any:
        body = json.dumps([{"KV": verb}]).encode()
        answer = self._pool.request("PUT", "/v1/txn", body=body, timeout=PATIENCE)
        assert answer.status in (200, 409), answer.data
        return answer.json() if answer.status == 200 else None

    def await_free(self, name: str, until: float) -> tuple[float, Any] | None:
        index = None
        while (left := until - time.monotonic()) > 0:
            found, index = self._get(name, index, left)
            if found is None:
                return time.monotonic(), 0
        return None

    def _get(self, name: str, index: str | None = None, wait: float = 0.0) -> tuple[Any, str]:
        query = "" if index is None else f"?index={index}&wait={int(wait * 1000)}ms"
        answer = self._pool.request("GET", f"/v1/kv/{self._key(name)}{query}", timeout=wait * 1.1 + PATIENCE)
        return (answer.json()[0] if answer.status == 200 else None), answer.headers["X-Consul-Index"]

    def _key(self, name: str) -> str:
        return f"bare/{quote(name, safe='')}"

    def close(self) -> None:
        self._pool.close()


class Kubernetes(Bare):
    """PUT of a Lease at its resourceVersion; an empty holder is free; a watch of one object."""

    def __init__(self, config: str, namespace: str) -> None:
        from urllib3 import PoolManager

        said = json.loads(Path(config).read_text())
        cluster, user = said["clusters"][0]["cluster"], said["users"][0]["user"]
        self._leases = f"{cluster['server']}/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {user['token']}"}
        self._pool = PoolManager(maxsize=2, retries=False, ca_certs=cluster["certificate-authority"])

    def look(self, name: str) -> tuple[bool, Any]:
        found = self._call("GET", f"/{self._key(name)}")
        if found is None:
            fresh = {"metadata": {"name": self._key(name)}, "spec": {"holderIdentity": ""}}
            found = self._call("POST", "", fresh) or self._call("GET", f"/{self._key(name)}")
        return not found["spec"].get("holderIdentity"), found

    def write(self, name: str, version: Any) -> Any:
        return self._put(version, {"holderIdentity": "host:1", "leaseDurationSeconds": 15})

    def free(self, name: str, version: Any) -> Any:
        return self._put(version, {"holderIdentity": "", "leaseDurationSeconds": 1})

    def _put(self, version: Any, spec: dict[str, Any]) -> Any:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1000 % 10**6:06d}Z"
        version = version | {"spec": spec | {"renewTime": now}}
        version["metadata"] = version["metadata"] | {"annotations": {"bare": BODY.decode()}}
        return self._call("PUT", f"/{version['metadata']['name']}", version)

    def await_free(self, name: str, until: float) -> tuple[float, Any] | None:
        free, found = self.look(name)
        if free:
            return time.monotonic(), found
        query = f"?watch=1&fieldSelector=metadata.name={self._key(name)}"
        query += f"&resourceVersion={found['metadata']['resourceVersion']}"
        query += f"&timeoutSeconds={max(int(until - time.monotonic()), 1)}"
        answer = self._request("GET", query, None, preload_content=False)
        try:
            for line in _lines(answer):
                told, found = time.monotonic(), json.loads(line)["object"]
                if not found["spec"].get("holderIdentity"):
                    return told, found
        finally:
            answer.close()
        return None

    def _call(self, verb: str, path: str, body: Any = None) -> Any:
        answer = self._request(verb, path, None if body is None else json.dumps(body).encode())
        if answer.status in (404, 409):
            return None
        assert answer.status in (200, 201), answer.data
        return answer.json()

    def _request(self, verb: str, path: str, body: bytes | None, **options: Any) -> Any:
        url = self._leases + path
        return self._pool.request(verb, url, body=body, headers=self._headers, timeout=PATIENCE, **options)

    def _key(self, name: str) -> str:
        return f"bare-{quote(name, safe='').lower().replace('%', '-')}"

    def close(self) -> None:
        self._pool.clear()


def _lines(answer: Any) -> Iterator[bytes]:
    rest = b""
    while piece := answer.read1():
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
