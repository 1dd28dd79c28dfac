"""The types of _etcd_messages.py. Made by `python tests/etcd_stubs.py` from _etcd.proto: change that instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

class _Message:
    def SerializeToString(self) -> bytes: ...
    @classmethod
    def FromString(cls, data: bytes, /) -> Self: ...
    def WhichOneof(self, name: str, /) -> str | None: ...
    def HasField(self, name: str, /) -> bool: ...

class Header(_Message):
    cluster_id: int
    member_id: int
    revision: int
    def __init__(self, *, cluster_id: int = ..., member_id: int = ..., revision: int = ...) -> None: ...

class KeyValue(_Message):
    key: bytes
    create_revision: int
    mod_revision: int
    value: bytes
    lease: int
    def __init__(self, *, key: bytes = ..., create_revision: int = ..., mod_revision: int = ..., value: bytes = ..., lease: int = ...) -> None: ...

class RangeRequest(_Message):
    key: bytes
    range_end: bytes
    limit: int
    def __init__(self, *, key: bytes = ..., range_end: bytes = ..., limit: int = ...) -> None: ...

class RangeResponse(_Message):
    header: Header
    kvs: Sequence[KeyValue]
    more: bool
    def __init__(self, *, header: Header = ..., kvs: Iterable[KeyValue] = ..., more: bool = ...) -> None: ...

class PutRequest(_Message):
    key: bytes
    value: bytes
    lease: int
    def __init__(self, *, key: bytes = ..., value: bytes = ..., lease: int = ...) -> None: ...

class DeleteRangeRequest(_Message):
    key: bytes
    def __init__(self, *, key: bytes = ...) -> None: ...

class RequestOp(_Message):
    request_range: RangeRequest
    request_put: PutRequest
    request_delete_range: DeleteRangeRequest
    def __init__(self, *, request_range: RangeRequest = ..., request_put: PutRequest = ..., request_delete_range: DeleteRangeRequest = ...) -> None: ...

class ResponseOp(_Message):
    response_range: RangeResponse
    def __init__(self, *, response_range: RangeResponse = ...) -> None: ...

class Compare(_Message):
    EQUAL: int
    VERSION: int
    MOD: int
    result: int
    target: int
    key: bytes
    version: int
    mod_revision: int
    def __init__(self, *, result: int = ..., target: int = ..., key: bytes = ..., version: int = ..., mod_revision: int = ...) -> None: ...

class TxnRequest(_Message):
    compare: Sequence[Compare]
    success: Sequence[RequestOp]
    failure: Sequence[RequestOp]
    def __init__(self, *, compare: Iterable[Compare] = ..., success: Iterable[RequestOp] = ..., failure: Iterable[RequestOp] = ...) -> None: ...

class TxnResponse(_Message):
    header: Header
    succeeded: bool
    responses: Sequence[ResponseOp]
    def __init__(self, *, header: Header = ..., succeeded: bool = ..., responses: Iterable[ResponseOp] = ...) -> None: ...

class WatchCreateRequest(_Message):
    key: bytes
    start_revision: int
    watch_id: int
    def __init__(self, *, key: bytes = ..., start_revision: int = ..., watch_id: int = ...) -> None: ...

class WatchCancelRequest(_Message):
    watch_id: int
    def __init__(self, *, watch_id: int = ...) -> None: ...

class WatchRequest(_Message):
    create_request: WatchCreateRequest
    cancel_request: WatchCancelRequest
    def __init__(self, *, create_request: WatchCreateRequest = ..., cancel_request: WatchCancelRequest = ...) -> None: ...

class Event(_Message):
    PUT: int
    DELETE: int
    type: int
    kv: KeyValue
    def __init__(self, *, type: int = ..., kv: KeyValue = ...) -> None: ...

class WatchResponse(_Message):
    header: Header
    watch_id: int
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    events: Sequence[Event]
    def __init__(self, *, header: Header = ..., watch_id: int = ..., created: bool = ..., canceled: bool = ..., compact_revision: int = ..., cancel_reason: str = ..., events: Iterable[Event] = ...) -> None: ...

class LeaseGrantRequest(_Message):
    TTL: int
    def __init__(self, *, TTL: int = ...) -> None: ...

class LeaseGrantResponse(_Message):
    header: Header
    ID: int
    TTL: int
    def __init__(self, *, header: Header = ..., ID: int = ..., TTL: int = ...) -> None: ...

class AuthenticateRequest(_Message):
    name: str
    password: str
    def __init__(self, *, name: str = ..., password: str = ...) -> None: ...

class AuthenticateResponse(_Message):
    header: Header
    token: str
    def __init__(self, *, header: Header = ..., token: str = ...) -> None: ...

class AuthStatusRequest(_Message):
    def __init__(self) -> None: ...

class AuthStatusResponse(_Message):
    header: Header
    enabled: bool
    def __init__(self, *, header: Header = ..., enabled: bool = ...) -> None: ...

class StatusRequest(_Message):
    def __init__(self) -> None: ...

class StatusResponse(_Message):
    header: Header
    version: str
    dbSize: int
    leader: int
    errors: Sequence[str]
    dbSizeInUse: int
    isLearner: bool
    dbSizeQuota: int
    def __init__(self, *, header: Header = ..., version: str = ..., dbSize: int = ..., leader: int = ..., errors: Iterable[str] = ..., dbSizeInUse: int = ..., isLearner: bool = ..., dbSizeQuota: int = ...) -> None: ...

class Member(_Message):
    ID: int
    name: str
    clientURLs: Sequence[str]
    isLearner: bool
    def __init__(self, *, ID: int = ..., name: str = ..., clientURLs: Iterable[str] = ..., isLearner: bool = ...) -> None: ...

class MemberListRequest(_Message):
    def __init__(self) -> None: ...

class MemberListResponse(_Message):
    header: Header
    members: Sequence[Member]
    def __init__(self, *, header: Header = ..., members: Iterable[Member] = ...) -> None: ...

class AlarmRequest(_Message):
    def __init__(self) -> None: ...

class AlarmMember(_Message):
    NONE: int
    NOSPACE: int
    CORRUPT: int
    memberID: int
    alarm: int
    def __init__(self, *, memberID: int = ..., alarm: int = ...) -> None: ...

class AlarmResponse(_Message):
    header: Header
    alarms: Sequence[AlarmMember]
    def __init__(self, *, header: Header = ..., alarms: Iterable[AlarmMember] = ...) -> None: ...
